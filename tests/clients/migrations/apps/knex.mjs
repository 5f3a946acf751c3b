// Knex: its migrator with its lock table, schema builder, transactions per migration, and back.
import knex from 'knex'
import { connection, equal, steps, tenants, users } from './steps.mjs'

const db = knex({ client: 'pg', connection, pool: { max: 4 } })
const migrations = {
  '1_first': {
    async up(db) {
      await db.schema.createTable('plans', (t) => { t.increments(); t.string('name').unique() })
      await db.schema.createTable('tenants', (t) => { t.bigInteger('id').primary(); t.string('name'); t.integer('plan_id').references('plans.id') })
      await db.schema.createTable('settings', (t) => { t.string('key').primary(); t.jsonb('value') })
      await db.schema.createTable('users', (t) => {
        t.bigIncrements()
        t.bigInteger('tenant_id').notNullable().references('tenants.id').onDelete('CASCADE')
        t.string('email').notNullable().index()
        t.string('name').defaultTo('nobody')
        t.enu('role', ['owner', 'member'], { useNative: true, enumName: 'role' }).notNullable().defaultTo('member')
        t.timestamps(true, true)
        t.unique(['tenant_id', 'email'])
      })
      await db.schema.createTable('projects', (t) => {
        t.uuid('id').primary().defaultTo(db.fn.uuid())
        t.bigInteger('tenant_id').notNullable().index()
        t.bigInteger('owner_id').references('id').inTable('users').onDelete('SET NULL')
        t.text('title')
      })
    },
    async down(db) {
      for (const table of ['projects', 'users', 'settings', 'tenants', 'plans']) await db.schema.dropTable(table)
      await db.raw('DROP TYPE role')
    },
  },
  '2_data': {
    async up(db) {
      await db('tenants').insert(tenants)
      const made = await db('users').insert(users).returning('id')
      equal(new Set(made.map((it) => it.id)).size, 100)
      await db('users').update({ name: 'somebody' })
      await db('users').where('tenant_id', '<=', 10).update({ role: 'owner' })
      await db.batchInsert('projects', made.slice(0, 20).map((it, at) => ({ tenant_id: at + 1, owner_id: it.id, title: 'p' })), 7)
    },
    async down(db) { for (const table of ['projects', 'users', 'tenants']) await db(table).del() },
  },
  '3_later': {
    async up(db) {
      await db.schema.alterTable('users', (t) => {
        t.renameColumn('name', 'full_name')
        t.boolean('active').notNullable().defaultTo(true)
        t.dropUnique(['tenant_id', 'email'])
        t.unique(['email', 'tenant_id'], { indexName: 'users_email' })
        t.string('email', 400).notNullable().alter()
        t.comment('people')
        t.check("email LIKE '%@%'", [], 'users_at')
      })
      await db.schema.alterTable('projects', (t) => { t.setNullable('title'); t.index(['tenant_id', 'title'], 'by_title') })
      await db.schema.renameTable('settings', 'options')
      await db.schema.createView('owners', (v) => v.as(db('users').select('tenant_id', 'id').where('role', 'owner')))
      await db.raw("DO $$ BEGIN CREATE TYPE mood AS ENUM ('good'); EXCEPTION WHEN duplicate_object THEN null; END $$")
    },
    async down(db) {
      await db.raw('DROP TYPE mood; DROP VIEW owners')
      await db.schema.renameTable('options', 'settings')
      await db.schema.alterTable('projects', (t) => t.dropIndex([], 'by_title'))
      await db.schema.alterTable('users', (t) => {
        t.dropChecks('users_at'); t.dropUnique([], 'users_email'); t.unique(['tenant_id', 'email']); t.dropColumn('active'); t.renameColumn('full_name', 'name')
      })
    },
  },
  '4_alone': {
    config: { transaction: false },
    async up(db) {
      await db.raw('CREATE INDEX CONCURRENTLY by_owner ON projects (owner_id)')
      await db.raw("ALTER TYPE role ADD VALUE 'guest'")
    },
    async down(db) { await db.raw('DROP INDEX CONCURRENTLY by_owner') },
  },
}
const source = { getMigrations: async () => Object.keys(migrations), getMigrationName: (it) => it, getMigration: async (it) => migrations[it] }
const options = { migrationSource: source }

await steps({
  async latest() { equal((await db.migrate.latest(options))[1], Object.keys(migrations)) },
  async status() {
    equal(await db.migrate.status(options), 0)
    equal((await db.migrate.list(options))[1], [])
  },
  async rows() {
    equal((await db('users').where({ full_name: 'somebody' }).count())[0].count, '100')
    equal((await db('projects').join('users', (on) => on.on('users.tenant_id', 'projects.tenant_id').on('users.id', 'owner_id')).count())[0].count, '20')
    equal(await db.schema.hasColumn('users', 'active'), true)
    equal((await db('users').columnInfo()).email.maxLength, 400)
  },
  async two_at_once() {
    const other = knex({ client: 'pg', connection })
    equal((await Promise.all([db, other].map((it) => it.migrate.latest(options)))).map((it) => it[1].length), [0, 0])
    await other.destroy()
  },
  async down_and_up() {
    await db.migrate.down(options)
    await db.migrate.up(options).catch(() => {})
    await db.migrate.rollback(options, true)
  },
  async a_failed_one_leaves_nothing() {
    const bad = { ...migrations, '1_first': { up: async (db) => { await migrations['1_first'].up(db); await db.raw('SELECT 1/0') }, down() {} } }
    const of = { getMigrations: async () => ['1_first'], getMigrationName: (it) => it, getMigration: async (it) => bad[it] }
    let failed = false
    await db.migrate.latest({ migrationSource: of }).catch(() => { failed = true })
    equal([failed, await db.schema.hasTable('users')], [true, false])
  },
  async forth_again() { await db.raw('DROP TYPE IF EXISTS role'); await db.migrate.latest(options) },
})
