// Drizzle: drizzle-kit writes the migrations, its migrator runs them, then `push`.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, writeFileSync, appendFileSync, readdirSync } from 'node:fs'
import { drizzle } from 'drizzle-orm/node-postgres'
import { migrate } from 'drizzle-orm/node-postgres/migrator'
import pg from 'pg'
import { connection, equal, steps, url } from './steps.mjs'

const folder = mkdtempSync('./drizzle-')
const head = `import { bigint, bigserial, boolean, index, integer, jsonb, pgEnum, pgTable, pgView, primaryKey, serial, text, timestamp, uniqueIndex, unique, uuid, varchar } from 'drizzle-orm/pg-core'
import { sql } from 'drizzle-orm'
export const plans = pgTable('plans', { id: serial('id').primaryKey(), name: varchar('name', { length: 40 }).unique() })
export const tenants = pgTable('tenants', { id: bigint('id', { mode: 'number' }).primaryKey(), name: text('name'), planId: integer('plan_id').references(() => plans.id) })
export const settings = pgTable('settings', { key: text('key').primaryKey(), value: jsonb('value') })
`
const first = `${head}
export const role = pgEnum('role', ['owner', 'member'])
export const users = pgTable('users', {
  id: bigserial('id', { mode: 'number' }).primaryKey(),
  tenantId: bigint('tenant_id', { mode: 'number' }).notNull().references(() => tenants.id, { onDelete: 'cascade' }),
  email: text('email').notNull(), name: text('name').default('nobody'), role: role('role').notNull().default('member'),
}, (t) => [unique('users_email').on(t.tenantId, t.email)])
export const projects = pgTable('projects', {
  id: uuid('id').primaryKey().defaultRandom(), tenantId: bigint('tenant_id', { mode: 'number' }).notNull(),
  ownerId: bigint('owner_id', { mode: 'number' }).references(() => users.id, { onDelete: 'set null' }), title: text('title'),
})
`
const later = `${head}
export const role = pgEnum('role', ['owner', 'member', 'guest'])
export const users = pgTable('users', {
  id: bigserial('id', { mode: 'number' }).primaryKey(),
  tenantId: bigint('tenant_id', { mode: 'number' }).notNull().references(() => tenants.id, { onDelete: 'cascade' }),
  email: varchar('email', { length: 400 }).notNull(), name: text('name').default('anybody'), role: role('role').notNull().default('member'),
  active: boolean('active').notNull().default(true), createdAt: timestamp('created_at', { withTimezone: true }).defaultNow(),
}, (t) => [unique('users_email').on(t.tenantId, t.email), index('by_email').on(t.email), uniqueIndex('lowered').on(t.tenantId, sql\`lower(email)\`)])
export const projects = pgTable('projects', {
  id: uuid('id').primaryKey().defaultRandom(), tenantId: bigint('tenant_id', { mode: 'number' }).notNull(),
  ownerId: bigint('owner_id', { mode: 'number' }).references(() => users.id, { onDelete: 'set null' }), title: text('title').notNull(),
}, (t) => [index('by_owner').on(t.ownerId).concurrently()])
export const members = pgTable('members', {
  tenantId: bigint('tenant_id', { mode: 'number' }).notNull(), userId: bigint('user_id', { mode: 'number' }).references(() => users.id), projectId: uuid('project_id').references(() => projects.id),
}, (t) => [primaryKey({ columns: [t.tenantId, t.userId, t.projectId] })])
export const owners = pgView('owners').as((q) => q.select({ tenantId: users.tenantId, id: users.id }).from(users).where(sql\`role = 'owner'\`))
`
// What drizzle-kit wrote some versions ago, which is in many repositories.
const older = `DO $$ BEGIN
 CREATE TYPE "public"."mood" AS ENUM('good', 'bad');
EXCEPTION
 WHEN duplicate_object THEN null;
END $$;
--> statement-breakpoint
CREATE TABLE IF NOT EXISTS "notes" ("id" serial PRIMARY KEY NOT NULL, "tenant_id" bigint NOT NULL, "user_id" bigint, "mood" "mood");
--> statement-breakpoint
DO $$ BEGIN
 ALTER TABLE "notes" ADD CONSTRAINT "notes_user_id_users_id_fk" FOREIGN KEY ("user_id") REFERENCES "public"."users"("id") ON DELETE no action ON UPDATE no action;
EXCEPTION
 WHEN duplicate_object THEN null;
END $$;
--> statement-breakpoint
`
const data = `INSERT INTO tenants (id, name) SELECT x, 't' || x FROM generate_series(1, 20) x;
--> statement-breakpoint
INSERT INTO users (tenant_id, email) SELECT x % 20 + 1, x || '@example.com' FROM generate_series(0, 99) x;
--> statement-breakpoint
UPDATE users SET name = 'somebody';
--> statement-breakpoint
INSERT INTO projects (tenant_id, owner_id, title) SELECT tenant_id, id, 'p' FROM users WHERE email LIKE '1%';
`
const write = (text) => writeFileSync(`${folder}/schema.ts`, text)
const kit = (...args) => execFileSync('node', ['node_modules/drizzle-kit/bin.cjs', ...args, `--config=${folder}/drizzle.config.json`], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
writeFileSync(`${folder}/drizzle.config.json`, JSON.stringify({ dialect: 'postgresql', schema: `${folder}/schema.ts`, out: `${folder}/out`, dbCredentials: { url, ssl: false } }))
const pool = new pg.Pool({ ...connection, max: 4 })
const db = drizzle(pool)
const run = () => migrate(db, { migrationsFolder: `${folder}/out` })
const newest = () => `${folder}/out/${readdirSync(`${folder}/out`).filter((it) => it.endsWith('.sql')).sort().at(-1)}`

await steps({
  async first() { write(first); console.log(kit('generate', '--name=first')); await run() },
  async data() { kit('generate', '--custom', '--name=data'); writeFileSync(newest(), data); await run() },
  async later() {
    write(later); kit('generate', '--name=later')
    // The migrator has one transaction around all, in which nothing can be concurrent.
    writeFileSync(newest(), (await import('node:fs')).readFileSync(newest(), 'utf8').replace('INDEX CONCURRENTLY', 'INDEX'))
    await run()
  },
  async older() { kit('generate', '--custom', '--name=older'); writeFileSync(newest(), older); console.log(kit('migrate')) },
  async older_again() { kit('generate', '--custom', '--name=again'); writeFileSync(newest(), older); await run() },
  async rows() {
    const count = async (sql) => (await pool.query(`SELECT count(*)::int AS n FROM ${sql}`)).rows[0].n
    equal(await count("users WHERE name = 'somebody' AND active"), 100)
    equal(await count('(SELECT DISTINCT id FROM users) u'), 100)
    equal(await count('drizzle.__drizzle_migrations'), 5)
  },
  async nothing_is_left() { await run(); console.log(kit('check')) },
  async pull() { console.log(kit('introspect')) },
  async push() {
    appendFileSync(`${folder}/schema.ts`, "export const mood = pgEnum('mood', ['good', 'bad'])\nexport const notes = pgTable('notes', { id: serial('id').primaryKey(), tenantId: bigint('tenant_id', { mode: 'number' }).notNull(), userId: bigint('user_id', { mode: 'number' }).references(() => users.id), mood: mood('mood'), more: integer('more').default(3) })\n")
    console.log(kit('push', '--force', '--verbose'))
  },
})
