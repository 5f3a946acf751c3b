// TypeORM: migrations that are written and ones that `migration:generate` computes from entities.
import 'reflect-metadata'
import typeorm from 'typeorm'
import { equal, steps, tenants, users, url } from './steps.mjs'

const { DataSource, EntitySchema, Table, TableColumn, TableForeignKey, TableIndex, TableUnique } = typeorm
const id = { name: 'id', type: 'bigint', isPrimary: true, isGenerated: true, generationStrategy: 'increment' }
const tenant_id = { name: 'tenant_id', type: 'bigint', isNullable: false }

class First1700000000001 {
  async up(q) {
    await q.query('CREATE EXTENSION IF NOT EXISTS "uuid-ossp"')
    await q.createTable(new Table({ name: 'plans', columns: [{ ...id, type: 'int' }, { name: 'name', type: 'varchar', isUnique: true }] }))
    await q.createTable(new Table({ name: 'tenants', columns: [{ name: 'id', type: 'bigint', isPrimary: true }, { name: 'name', type: 'text', isNullable: true }] }))
    await q.createTable(new Table({ name: 'settings', columns: [{ name: 'key', type: 'varchar', isPrimary: true }, { name: 'value', type: 'jsonb', isNullable: true }] }))
    await q.createTable(new Table({
      name: 'users',
      columns: [id, tenant_id, { name: 'email', type: 'varchar' }, { name: 'name', type: 'varchar', default: "'nobody'" },
        { name: 'role', type: 'enum', enum: ['owner', 'member'], enumName: 'role', default: "'member'" }],
      uniques: [{ name: 'users_email', columnNames: ['tenant_id', 'email'] }],
      foreignKeys: [{ columnNames: ['tenant_id'], referencedTableName: 'tenants', referencedColumnNames: ['id'], onDelete: 'CASCADE' }],
    }), true)
    await q.createTable(new Table({
      name: 'projects',
      columns: [{ name: 'id', type: 'uuid', isPrimary: true, generationStrategy: 'uuid', default: 'uuid_generate_v4()' }, tenant_id,
        { name: 'owner_id', type: 'bigint', isNullable: true }, { name: 'title', type: 'text' }],
    }))
    await q.createForeignKey('projects', new TableForeignKey({ name: 'owner', columnNames: ['owner_id'], referencedTableName: 'users', referencedColumnNames: ['id'], onDelete: 'SET NULL' }))
  }
  async down(q) {
    for (const it of ['projects', 'users', 'settings', 'tenants', 'plans']) await q.dropTable(it)
    await q.query('DROP TYPE role')
  }
}
class Data1700000000002 {
  async up(q) {
    for (const it of tenants) await q.query('INSERT INTO tenants (id, name) VALUES ($1, $2)', [it.id, it.name])
    await q.manager.createQueryBuilder().insert().into('users', ['tenant_id', 'email']).values(users).execute()
    await q.manager.createQueryBuilder().update('users').set({ name: 'somebody' }).execute()
    await q.query("INSERT INTO projects (tenant_id, owner_id, title) SELECT tenant_id, id, 'p' FROM users WHERE email LIKE '1%'")
  }
  async down(q) { for (const it of ['projects', 'users', 'tenants']) await q.query(`DELETE FROM ${it}`) }
}
class Later1700000000003 {
  async up(q) {
    await q.renameColumn('users', 'name', 'full_name')
    await q.addColumn('users', new TableColumn({ name: 'active', type: 'boolean', default: true }))
    await q.changeColumn('projects', 'title', new TableColumn({ name: 'title', type: 'text', isNullable: true }))
    await q.createIndex('users', new TableIndex({ name: 'by_email', columnNames: ['email'] }))
    await q.createUniqueConstraint('users', new TableUnique({ name: 'again', columnNames: ['email', 'tenant_id'] }))
    await q.dropUniqueConstraint('users', 'users_email')
    await q.renameTable('settings', 'options')
    await q.query('CREATE VIEW owners AS SELECT tenant_id, id FROM users')
  }
  async down(q) {
    await q.query('DROP VIEW owners')
    await q.renameTable('options', 'settings')
    await q.createUniqueConstraint('users', new TableUnique({ name: 'users_email', columnNames: ['tenant_id', 'email'] }))
    await q.dropUniqueConstraint('users', 'again')
    await q.dropIndex('users', 'by_email')
    await q.dropColumn('users', 'active')
    await q.renameColumn('users', 'full_name', 'name')
  }
}
class Alone1700000000004 {
  transaction = false
  async up(q) { await q.query('CREATE INDEX CONCURRENTLY by_owner ON projects (owner_id)') }
  async down(q) { await q.query('DROP INDEX CONCURRENTLY by_owner') }
}
const Note = new EntitySchema({
  name: 'notes',
  columns: { id: { type: 'bigint', primary: true, generated: 'increment' }, tenant_id: { type: 'bigint' }, body: { type: 'text', nullable: true }, tags: { type: 'text', array: true, default: [] } },
  indices: [{ columns: ['tenant_id', 'body'] }],
})
const Comment = new EntitySchema({
  name: 'comments',
  columns: { id: { type: 'uuid', primary: true, generated: 'uuid' }, tenant_id: { type: 'bigint' }, text: { type: 'varchar', length: 50 }, kind: { type: 'enum', enum: ['a', 'b'], default: 'a' } },
  relations: { note: { type: 'many-to-one', target: 'notes', onDelete: 'CASCADE', joinColumn: { name: 'note_id' } } },
})
const base = { type: 'postgres', url, migrationsTransactionMode: 'each' }
const db = new DataSource({ ...base, migrations: [First1700000000001, Data1700000000002, Later1700000000003, Alone1700000000004], entities: [Note, Comment] })

await steps({
  async run() { await db.initialize(); equal((await db.runMigrations()).length, 4); equal(await db.showMigrations(), false) },
  async rows() {
    equal((await db.query("SELECT count(*) FROM users WHERE full_name = 'somebody'"))[0].count, '100')
    equal((await db.query('SELECT count(DISTINCT id) FROM users'))[0].count, '100')
  },
  async generated() {
    // As `migration:generate` does, for the entities alone.
    const made = (await db.driver.createSchemaBuilder().log()).upQueries.filter((it) => /notes|comments/.test(it.query))
    equal(made.length > 3, true)
    await db.transaction(async (tx) => { for (const it of made) await tx.query(it.query, it.parameters) })
    equal((await db.driver.createSchemaBuilder().log()).upQueries.filter((it) => /notes|comments/.test(it.query)), [])
  },
  async entities() {
    const notes = await db.getRepository('notes').save(tenants.map((it) => ({ tenant_id: it.id, body: 'x' })))
    equal(new Set(notes.map((it) => it.id)).size, 20)
    await db.getRepository('comments').save(notes.map((it) => ({ tenant_id: it.tenant_id, text: 'y', note: it })))
    equal(await db.getRepository('comments').count({ where: { note: { body: 'x' } } }), 20)
  },
  async back() { for (let at = 0; at < 4; at++) await db.undoLastMigration(at ? {} : { transaction: 'none' }) },
  async and_forth() { equal((await db.runMigrations({ transaction: 'each' })).length, 4) },
})
