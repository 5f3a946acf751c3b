// node-pg-migrate: pgmigrations with an advisory lock, all in one transaction or each in its own.
import { mkdtempSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { runner } from 'node-pg-migrate'
import pg from 'pg'
import { connection, equal, steps } from './steps.mjs'

const dir = resolve(mkdtempSync('./pgmigrate-'))
const options = { databaseUrl: connection, dir, migrationsTable: 'pgmigrations', log: () => {}, verbose: false }
const write = (at, text) => writeFileSync(`${dir}/${1700000000000 + at}_m${at}.mjs`, text)
write(1, `
export const up = (m) => {
  m.createTable('plans', { id: 'id', name: { type: 'text', unique: true } })
  m.createTable('tenants', { id: { type: 'bigint', primaryKey: true }, name: 'text' })
  m.createTable('settings', { key: { type: 'text', primaryKey: true }, value: 'jsonb' })
  m.createType('role', ['owner', 'member'])
  m.createTable('users', {
    id: 'id', tenant_id: { type: 'bigint', notNull: true, references: 'tenants', onDelete: 'CASCADE' },
    email: { type: 'text', notNull: true }, name: { type: 'text', default: 'nobody' }, role: { type: 'role', default: 'member' },
    created_at: { type: 'timestamptz', default: m.func('current_timestamp') },
  }, { constraints: { unique: ['tenant_id', 'email'] }, comment: 'people' })
  m.createIndex('users', 'email')
}`)
write(2, `
export const up = (m) => {
  m.sql("INSERT INTO tenants (id, name) SELECT x, 't' || x FROM generate_series(1, 20) x")
  m.sql("INSERT INTO users (tenant_id, email) SELECT x % 20 + 1, x || '@example.com' FROM generate_series(0, 99) x; UPDATE users SET name = 'somebody'")
}
export const down = (m) => { m.sql('DELETE FROM users'); m.sql('DELETE FROM tenants') }`)
write(3, `
export const up = (m) => {
  m.renameColumn('users', 'name', 'full_name')
  m.addColumns('users', { active: { type: 'boolean', notNull: true, default: true }, boss_id: { type: 'integer', references: 'users' } })
  m.alterColumn('users', 'email', { type: 'varchar(400)' })
  m.addConstraint('users', 'users_at', "CHECK (email LIKE '%@%')")
  m.createView('owners', {}, "SELECT tenant_id, id FROM users WHERE role = 'owner'")
  m.createFunction('twice', [{ name: 'x', type: 'int' }], { returns: 'int', language: 'sql', behavior: 'IMMUTABLE' }, 'SELECT x * 2')
  m.renameTable('settings', 'options')
}
export const down = (m) => {
  m.renameTable('options', 'settings'); m.dropFunction('twice', [{ type: 'int' }]); m.dropView('owners'); m.dropConstraint('users', 'users_at')
  m.dropColumns('users', ['active', 'boss_id']); m.renameColumn('users', 'full_name', 'name')
}`)
write(4, `
export const up = (m) => { m.noTransaction(); m.createIndex('users', 'full_name', { name: 'by_name', concurrently: true }); m.addTypeValue('role', 'guest', { ifNotExists: true }) }
export const down = (m) => { m.noTransaction(); m.dropIndex('users', 'full_name', { name: 'by_name', concurrently: true }) }`)
const run = (more) => runner({ ...options, direction: 'up', count: Infinity, ...more })

await steps({
  async up() { equal((await run({})).length, 4) },
  async nothing_is_left() { equal((await run({})).length, 0) },
  async rows() {
    const client = new pg.Client(connection)
    await client.connect()
    equal((await client.query("SELECT count(*)::int AS n, count(DISTINCT id)::int AS ids FROM users WHERE full_name = 'somebody'")).rows, [{ n: 100, ids: 100 }])
    await client.end()
  },
  async down() { equal((await run({ direction: 'down', count: 3 })).length, 3) },
  async one_transaction_for_all() { equal((await run({ count: 2, singleTransaction: true })).length, 2) },
  async each_in_its_own() { equal((await run({ singleTransaction: false })).length, 1) },
})
