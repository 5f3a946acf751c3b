import { eq, sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import { integer, jsonb, pgTable, serial, text } from 'drizzle-orm/pg-core'
import pg from 'pg'
import { connection, equal, steps } from './lib.mjs'

const db = drizzle(new pg.Pool({ ...connection, max: 8 }))
const items = pgTable('drizzle_items', {
  id: serial('id').primaryKey(),
  tenant: integer('tenant_id').notNull(),
  name: text('name'),
  data: jsonb('data'),
})

await steps({
  async schema() {
    await db.execute(sql`DROP TABLE IF EXISTS drizzle_items`)
    await db.execute(sql`CREATE TABLE drizzle_items (id serial PRIMARY KEY, tenant_id int NOT NULL, name text, data jsonb)`)
  },
  async insert() {
    const values = Array.from({ length: 20 }, (_, at) => ({ tenant: at % 4, name: `n${at}`, data: { at } }))
    equal((await db.insert(items).values(values).returning()).length, 20)
  },
  async query() {
    equal((await db.select().from(items).where(eq(items.tenant, 3))).length, 5)
  },
  async prepared() {
    const byTenant = db.select().from(items).where(eq(items.tenant, sql.placeholder('tenant'))).prepare('by_tenant')
    const all = Array.from({ length: 30 }, (_, at) => byTenant.execute({ tenant: at % 4 }))
    equal((await Promise.all(all)).every((rows) => rows.length === 5), true)
  },
  async transaction() {
    await db.transaction(async (tx) => {
      await tx.update(items).set({ name: 'x' }).where(eq(items.tenant, 1))
      await tx.transaction(async (inner) => {
        await inner.delete(items)
        inner.rollback()
      }).catch(() => {})
    }, { isolationLevel: 'repeatable read' })
    equal((await db.select().from(items).where(eq(items.name, 'x'))).length, 5)
  },
  async upsert() {
    await db.insert(items).values({ id: 1, tenant: 8 }).onConflictDoUpdate({ target: items.id, set: { tenant: 8 } })
    equal((await db.select().from(items).where(eq(items.tenant, 8))).length, 1)
  },
})
