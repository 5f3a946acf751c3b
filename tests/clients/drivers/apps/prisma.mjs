import { PrismaPg } from '@prisma/adapter-pg'
import { connection, equal, steps } from './lib.mjs'
import client from './generated/index.js'

const { Prisma, PrismaClient } = client
const db = new PrismaClient({ adapter: new PrismaPg({ ...connection, max: 8 }) })
const authors = Array.from({ length: 20 }, (_, at) => ({ email: `a${at}@example.com`, name: `n${at % 4}`, data: { at } }))

await steps({
  // As `prisma migrate` would make it; its engine is in no package.
  async schema() {
    for (const sql of [
      'DROP TABLE IF EXISTS prisma_books, prisma_authors',
      'CREATE TABLE prisma_authors (id serial PRIMARY KEY, email text NOT NULL UNIQUE, name text, data jsonb)',
      `CREATE TABLE prisma_books (id serial PRIMARY KEY, title text NOT NULL, price decimal(65,30) NOT NULL DEFAULT 0,
        published timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP, tags text[],
        author_id int NOT NULL REFERENCES prisma_authors ON DELETE CASCADE ON UPDATE CASCADE)`,
    ]) await db.$executeRawUnsafe(sql)
  },
  async createMany() {
    equal((await db.author.createMany({ data: authors })).count, 20)
    equal((await db.author.createMany({ data: authors, skipDuplicates: true })).count, 0)
  },
  async nested() {
    const made = await db.author.create({
      data: { email: 'x@example.com', books: { create: [{ title: 'one', price: '1.50', tags: ['a', 'b'] }, { title: 'two' }] } },
      include: { books: { orderBy: { id: 'asc' } } },
    })
    equal(made.books.map((it) => [it.title, it.price.toString(), it.tags]), [['one', '1.5', ['a', 'b']], ['two', '0', []]])
    const found = await db.author.findMany({ where: { books: { some: { tags: { has: 'a' } } } }, include: { _count: { select: { books: true } } } })
    equal(found.map((it) => it._count.books), [2])
  },
  async query() {
    equal(await db.author.count({ where: { name: 'n1', data: { path: ['at'], gt: 4 } } }), 4)
    const page = await db.author.findMany({ where: { name: { in: ['n2', 'n3'] } }, orderBy: { id: 'desc' }, skip: 2, take: 3, select: { email: true } })
    equal(page.map((it) => it.email), ['a15@example.com', 'a14@example.com', 'a11@example.com'])
    const groups = await db.author.groupBy({ by: ['name'], where: { name: { not: null } }, _count: true, orderBy: { name: 'asc' } })
    equal(groups.map((it) => it._count), [5, 5, 5, 5])
  },
  async many() {
    const all = Array.from({ length: 40 }, (_, at) => db.author.findUnique({ where: { email: `a${at % 20}@example.com` } }))
    equal((await Promise.all(all)).map((it) => it.data.at), Array.from({ length: 40 }, (_, at) => at % 20))
  },
  async upsert() {
    const upsert = (name) => db.author.upsert({ where: { email: 'u@example.com' }, create: { email: 'u@example.com' }, update: { name } })
    equal((await upsert('x')).name, null)
    equal((await upsert('y')).name, 'y')
  },
  async batch() {
    const [changed, count] = await db.$transaction([
      db.book.updateMany({ data: { title: 'three' } }),
      db.book.count({ where: { title: 'three' } }),
    ])
    equal([changed.count, count], [2, 2])
  },
  async transaction() {
    const options = { isolationLevel: Prisma.TransactionIsolationLevel.Serializable }
    await db.$transaction(async (tx) => {
      await tx.author.update({ where: { email: 'a0@example.com' }, data: { books: { create: { title: 'four' } } } })
    }, options)
    await db.$transaction(async (tx) => {
      await tx.book.deleteMany()
      throw new Error('back')
    }).catch(() => {})
    equal(await db.book.count(), 3)
  },
  async error() {
    const twice = db.author.create({ data: { email: 'a0@example.com' } })
    equal(await twice.then(() => '', (error) => error.code), 'P2002')
    equal(await db.author.findUniqueOrThrow({ where: { id: 0 } }).then(() => '', (error) => error.code), 'P2025')
  },
  async raw() {
    const rows = await db.$queryRaw`SELECT id, email FROM prisma_authors WHERE name = ${'n1'} AND id = ANY(${[1, 2, 3]})`
    equal(rows.map((it) => it.email), ['a1@example.com'])
    await db.$executeRaw`SELECT set_config('app.tenant', ${'7'}, false)`
  },
  async cascade() {
    await db.author.deleteMany({ where: { books: { some: {} } } })
    equal(await db.book.count(), 0)
    await db.$disconnect()
  },
})
