import knexOf from 'knex'
import { connection, equal, steps } from './lib.mjs'

const knex = knexOf({ client: 'pg', connection, pool: { min: 0, max: 8 } })

await steps({
  async schema() {
    await knex.schema.dropTableIfExists('knex_orders')
    await knex.schema.createTable('knex_orders', (table) => {
      table.increments('id')
      table.integer('tenant_id').notNullable().index()
      table.jsonb('data')
      table.timestamps(true, true)
    })
    equal(await knex.schema.hasTable('knex_orders'), true)
    equal(await knex.schema.hasColumn('knex_orders', 'data'), true)
  },
  async insert() {
    const rows = Array.from({ length: 50 }, (_, at) => ({ tenant_id: at % 5, data: { at } }))
    equal((await knex('knex_orders').insert(rows).returning('id')).length, 50)
    await knex.batchInsert('knex_orders', rows, 20)
  },
  async query() {
    const [{ count }] = await knex('knex_orders').where({ tenant_id: 1 }).count()
    equal(count, '20')
    const rows = await knex('knex_orders').whereIn('tenant_id', [1, 2]).orderBy('id').limit(3)
    equal(rows.length, 3)
  },
  async concurrent() {
    const all = Array.from({ length: 40 }, (_, at) => knex('knex_orders').where({ tenant_id: at % 5 }).first())
    equal((await Promise.all(all)).length, 40)
  },
  async transaction() {
    await knex.transaction(async (trx) => {
      await trx('knex_orders').insert({ tenant_id: 9 })
      await trx.transaction(async (inner) => {
        await inner('knex_orders').insert({ tenant_id: 9 })
        throw new Error('no')
      }).catch(() => {})
    })
    equal((await knex('knex_orders').where({ tenant_id: 9 })).length, 1)
  },
  async upsert() {
    await knex('knex_orders').insert({ id: 1, tenant_id: 77 }).onConflict('id').merge()
    equal((await knex('knex_orders').where({ id: 1 }).first()).tenant_id, 77)
  },
  async stream() {
    let rows = 0
    for await (const _ of knex('knex_orders').where('tenant_id', '<', 5).stream()) rows += 1
    equal(rows > 90, true)
  },
  async alter() {
    await knex('knex_orders').where({ id: 2 }).select('*')
    await knex.schema.alterTable('knex_orders', (table) => table.string('note'))
    equal('note' in (await knex('knex_orders').where({ id: 2 }).select('*'))[0], true)
  },
})
