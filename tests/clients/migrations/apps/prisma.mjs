// Prisma: its engine for schemas in WebAssembly, which is in the package, over the driver adapter.
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, writeFileSync, readFileSync } from 'node:fs'
import pg from 'pg'
import { connection, equal, steps, url } from './steps.mjs'

const folder = mkdtempSync('./prisma-')
const enums = (more) => `enum Role {\n  owner\n  member\n  ${more}\n}\n`
const head = `
datasource db {\n  provider = "postgresql"\n  url = env("DATABASE_URL")\n}
model Plan { id Int @id @default(autoincrement())\n name String @unique\n tenants Tenant[]\n @@map("plans") }
model Tenant { id BigInt @id\n name String?\n planId Int? @map("plan_id")\n plan Plan? @relation(fields: [planId], references: [id])\n users User[]\n @@map("tenants") }
model Setting { key String @id\n value Json?\n @@map("settings") }
`
const first = `${head}${enums('')}
model User { id BigInt @id @default(autoincrement())\n tenantId BigInt @map("tenant_id")\n email String\n name String? @default("nobody")\n role Role @default(member)
  tenant Tenant @relation(fields: [tenantId], references: [id], onDelete: Cascade)\n projects Project[]\n @@unique([tenantId, email])\n @@map("users") }
model Project { id String @id @default(dbgenerated("gen_random_uuid()")) @db.Uuid\n tenantId BigInt @map("tenant_id")\n ownerId BigInt? @map("owner_id")
  owner User? @relation(fields: [ownerId], references: [id])\n title String?\n createdAt DateTime @default(now())\n @@map("projects") }
`
const later = `${head}${enums('guest')}
model User { id BigInt @id @default(autoincrement())\n tenantId BigInt @map("tenant_id")\n email String @db.VarChar(400)\n name String? @default("anybody")\n role Role @default(member)
  active Boolean @default(true)\n tags String[]\n tenant Tenant @relation(fields: [tenantId], references: [id], onDelete: Cascade)\n projects Project[]\n notes Note[]\n @@unique([tenantId, email])\n @@index([email])\n @@map("users") }
model Project { id String @id @default(dbgenerated("gen_random_uuid()")) @db.Uuid\n tenantId BigInt @map("tenant_id")\n ownerId BigInt? @map("owner_id")
  owner User? @relation(fields: [ownerId], references: [id], onDelete: Cascade)\n title String @default("")\n createdAt DateTime @default(now())\n @@index([tenantId, title])\n @@map("projects") }
model Note { id Int @id @default(autoincrement())\n tenantId BigInt @map("tenant_id")\n userId BigInt @map("user_id")\n user User @relation(fields: [userId], references: [id])\n @@map("notes") }
`
const data = `INSERT INTO tenants (id, name) SELECT x, 't' || x FROM generate_series(1, 20) x;
INSERT INTO users (tenant_id, email) SELECT x % 20 + 1, x || '@example.com' FROM generate_series(0, 99) x;
UPDATE users SET name = 'somebody';
INSERT INTO projects (tenant_id, owner_id, title) SELECT tenant_id, id, 'p' FROM users WHERE email LIKE '1%';
DO $$ BEGIN CREATE TYPE mood AS ENUM ('good'); EXCEPTION WHEN duplicate_object THEN null; END $$;
`
writeFileSync('prisma.config.mjs', `
import { PrismaPg } from '@prisma/adapter-pg'
export default { experimental: { adapter: true }, engine: 'js', schema: process.env.SHOP_FOLDER + '/schema.prisma', migrations: { path: process.env.SHOP_FOLDER + '/migrations' },
  adapter: async () => new PrismaPg({ connectionString: process.env.DATABASE_URL }) }
`)
// The native engines are in no package.
const none = { PRISMA_QUERY_ENGINE_LIBRARY: '/bin/true', PRISMA_QUERY_ENGINE_BINARY: '/bin/true', PRISMA_SCHEMA_ENGINE_BINARY: '/bin/true' }
const env = { ...process.env, ...none, DATABASE_URL: url, SHOP_FOLDER: folder, CHECKPOINT_DISABLE: '1', PRISMA_HIDE_UPDATE_MESSAGE: '1', PRISMA_SKIP_POSTINSTALL_GENERATE: '1' }
const prisma = (...args) => execFileSync('node', ['node_modules/prisma/build/index.js', ...args], { env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
const write = (text) => writeFileSync(`${folder}/schema.prisma`, text)
const migration = (name, sql) => { mkdirSync(`${folder}/migrations/${name}`, { recursive: true }); writeFileSync(`${folder}/migrations/${name}/migration.sql`, sql) }
let before = ''
const diff = (text) => {
  write(text)
  writeFileSync(`${folder}/before.prisma`, before || 'datasource db {\n  provider = "postgresql"\n  url = env("DATABASE_URL")\n}\n')
  before = text
  return prisma('migrate', 'diff', '--from-schema-datamodel', `${folder}/before.prisma`, '--to-schema-datamodel', `${folder}/schema.prisma`, '--script')
}

await steps({
  async first() {
    mkdirSync(`${folder}/migrations`, { recursive: true })
    writeFileSync(`${folder}/migrations/migration_lock.toml`, 'provider = "postgresql"\n')
    migration('20240101000000_first', diff(first))
    console.log(readFileSync(`${folder}/migrations/20240101000000_first/migration.sql`, 'utf8'), prisma('migrate', 'deploy'))
  },
  async data() { migration('20240102000000_data', data); prisma('migrate', 'deploy') },
  async later() { migration('20240103000000_later', diff(later)); console.log(prisma('migrate', 'deploy')) },
  async status() { equal(/up to date/.test(prisma('migrate', 'status')), true) },
  async no_drift() { equal(/No difference|empty/.test(prisma('migrate', 'diff', '--from-config-datasource', '--to-schema-datamodel', `${folder}/schema.prisma`)), true) },
  async rows() {
    const client = new pg.Client(connection)
    await client.connect()
    equal((await client.query("SELECT count(*)::int AS n, count(DISTINCT id)::int AS ids FROM users WHERE name = 'somebody'")).rows, [{ n: 100, ids: 100 }])
    await client.end()
  },
  async a_failed_one_is_resolved() {
    migration('20240104000000_bad', 'CREATE TABLE bad (id int); SELECT 1/0;')
    let failed = false
    try { prisma('migrate', 'deploy') } catch { failed = true }
    equal(failed, true)
    prisma('migrate', 'resolve', '--rolled-back', '20240104000000_bad')
    migration('20240104000000_bad', 'CREATE TABLE good (id int);')
    prisma('migrate', 'deploy')
  },
  async db_push() { write(later.replace('title String @default("")', 'title String @default("")\n more Int @default(3)')); console.log(prisma('db', 'push', '--skip-generate')) },
  async db_pull() { console.log(prisma('db', 'pull', '--print')) },
})
