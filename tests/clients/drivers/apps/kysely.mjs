import { Kysely, PostgresDialect, sql } from 'kysely'
import pg from 'pg'
import { connection, equal, steps } from './lib.mjs'

const db = new Kysely({ dialect: new PostgresDialect({ pool: new pg.Pool({ ...connection, max: 8 }) }) })

await steps({
  async schema() {
    await db.schema.dropTable('kysely_person').ifExists().execute()
    await db.schema.createTable('kysely_person')
      .addColumn('id', 'serial', (it) => it.primaryKey())
      .addColumn('tenant_id', 'integer', (it) => it.notNull())
      .addColumn('name', 'text')
      .execute()
    const tables = await db.introspection.getTables()
    equal(tables.some((it) => it.name === 'kysely_person'), true)
  },
  async insert() {
    const values = Array.from({ length: 30 }, (_, at) => ({ tenant_id: at % 3, name: `n${at}` }))
    equal((await db.insertInto('kysely_person').values(values).returning('id').execute()).length, 30)
  },
  async query() {
    const row = await db.selectFrom('kysely_person').select((it) => it.fn.countAll().as('n')).where('tenant_id', '=', 1).executeTakeFirst()
    equal(row.n, '10')
  },
  async transaction() {
    await db.transaction().setIsolationLevel('serializable').execute(async (trx) => {
      await trx.updateTable('kysely_person').set({ name: 'x' }).where('tenant_id', '=', 2).execute()
    })
    await db.transaction().execute(async (trx) => {
      await trx.deleteFrom('kysely_person').execute()
      throw new Error('no')
    }).catch(() => {})
    equal((await db.selectFrom('kysely_person').selectAll().where('name', '=', 'x').execute()).length, 10)
  },
  async connection() {
    await db.connection().execute(async (one) => {
      const { rows } = await sql`SELECT ${1}::int + ${2}::int AS sum`.execute(one)
      equal(rows[0].sum, 3)
    })
  },
  async with() {
    const rows = await db.with('some', (it) => it.selectFrom('kysely_person').selectAll().where('tenant_id', '=', 0))
      .selectFrom('some').select('id').execute()
    equal(rows.length, 10)
  },
})
