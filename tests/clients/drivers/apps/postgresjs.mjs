import postgres from 'postgres'
import { equal, steps, url } from './lib.mjs'

const sql = postgres(url, { max: 4, onnotice: () => {} })
const one = postgres(url, { max: 1, onnotice: () => {}, idle_timeout: 1 })

await steps({
  async types() {
    const [row] = await sql`SELECT ${1}::int AS a, ${'x'}::text AS b, ${[1, 2]}::int[] AS c, ${sql.json({ d: 1 })} AS d, ${new Date(0)}::timestamptz AS e`
    equal([row.a, row.b, row.c, row.d, row.e.getTime()], [1, 'x', [1, 2], { d: 1 }, 0])
  },
  async table() {
    await sql`DROP TABLE IF EXISTS pjs`
    await sql`CREATE TABLE pjs (id int PRIMARY KEY, name text)`
    await sql`INSERT INTO pjs ${sql(Array.from({ length: 100 }, (_, id) => ({ id, name: `n${id}` })))}`
    equal((await sql`SELECT count(*)::int AS n FROM pjs`)[0].n, 100)
  },
  async pipelined() {
    const all = await Promise.all(Array.from({ length: 100 }, (_, id) => sql`SELECT name FROM pjs WHERE id = ${id}`))
    equal(all.every((rows, id) => rows[0].name === `n${id}`), true)
  },
  async pipelinedErrors() {
    const all = await Promise.allSettled(Array.from({ length: 40 }, (_, at) => (at % 4 ? one`SELECT ${at}::int AS at` : one`SELECT nope`)))
    equal(all.filter((it) => it.status === 'rejected').length, 10)
    equal(all.filter((it, at) => it.status === 'fulfilled' && it.value[0].at === at).length, 30)
  },
  async transaction() {
    await sql.begin('isolation level serializable', async (tx) => {
      await tx`UPDATE pjs SET name = 'x' WHERE id < 10`
      await tx.savepoint(async (inner) => { await inner`DELETE FROM pjs`; throw new Error('no') }).catch(() => {})
    })
    equal((await sql`SELECT count(*)::int AS n FROM pjs WHERE name = 'x'`)[0].n, 10)
  },
  async pipelinedTransaction() {
    const [a, b] = await sql.begin((tx) => [tx`SELECT 1 AS a`, tx`SELECT 2 AS b`])
    equal([a[0].a, b[0].b], [1, 2])
  },
  async cursor() {
    let seen = 0
    for await (const rows of sql`SELECT * FROM generate_series(1, 95)`.cursor(10)) seen += rows.length
    equal(seen, 95)
  },
  async cursorLeft() {
    for await (const rows of one`SELECT * FROM generate_series(1, 95)`.cursor(10)) { equal(rows.length, 10); break }
    equal((await one`SELECT 1 AS a`)[0].a, 1)
  },
  async forEach() {
    let seen = 0
    await sql`SELECT * FROM generate_series(1, 50)`.forEach(() => { seen += 1 })
    equal(seen, 50)
  },
  async copyIn() {
    const stream = await sql`COPY pjs FROM STDIN`.writable()
    for (let id = 1000; id < 1100; id += 1) stream.write(`${id}\tc\n`)
    await new Promise((yes, no) => { stream.on('finish', yes).on('error', no); stream.end() })
    equal((await sql`SELECT count(*)::int AS n FROM pjs WHERE name = 'c'`)[0].n, 100)
  },
  async copyOut() {
    const stream = await sql`COPY (SELECT * FROM generate_series(1, 1000)) TO STDOUT`.readable()
    let bytes = 0
    for await (const chunk of stream) bytes += chunk.length
    equal(bytes, 3893)
  },
  async cancel() {
    const long = one`SELECT pg_sleep(10)`
    setTimeout(() => long.cancel(), 200)
    equal(await long.catch((error) => error.code), '57014')
  },
  async listen() {
    let got
    const heard = new Promise((yes) => { got = yes })
    await sql.listen('pjs_channel', got)
    await sql.notify('pjs_channel', 'hello')
    equal(await heard, 'hello')
  },
  async changedTable() {
    await one`SELECT * FROM pjs WHERE id = ${1}`
    await one`ALTER TABLE pjs ADD COLUMN note text`
    equal('note' in (await one`SELECT * FROM pjs WHERE id = ${1}`)[0], true)
  },
  async simple() {
    equal((await sql`SELECT 1 AS a; SELECT 2 AS b`.simple()).length, 2)
  },
  async describe() {
    const { types, columns } = await sql`SELECT ${1}::int8 AS a, 'x'::text AS b`.describe()
    equal([types, columns.map((it) => it.type)], [[20], [20, 25]])
  },
  async reserve() {
    const held = await sql.reserve()
    await held`SET search_path TO pg_catalog`
    equal((await held`SHOW search_path`)[0].search_path, 'pg_catalog')
    held.release()
  },
  async largeObject() {
    await sql.begin(async (tx) => {
      const object = await sql.largeObject()
      await object.write(Buffer.from('hello'))
      await object.seek(0)
      equal((await object.read(5))[0].data.toString(), 'hello')
      await object.close()
    })
  },
})
