import 'reflect-metadata'
import typeorm from 'typeorm'
import { equal, steps, url } from './lib.mjs'

const Post = new typeorm.EntitySchema({
  name: 'TypeormPost',
  columns: {
    id: { type: 'int', primary: true, generated: true },
    tenantId: { type: 'int' },
    title: { type: 'varchar', nullable: true },
    data: { type: 'jsonb', nullable: true },
  },
})
const source = new typeorm.DataSource({ type: 'postgres', url, entities: [Post], synchronize: true, dropSchema: false })

await steps({
  async synchronize() {
    await source.initialize()
    await source.synchronize(true)
  },
  async save() {
    const posts = Array.from({ length: 20 }, (_, at) => ({ tenantId: at % 4, title: `t${at}`, data: { at } }))
    equal((await source.getRepository(Post).save(posts)).length, 20)
  },
  async find() {
    equal(await source.getRepository(Post).countBy({ tenantId: 2 }), 5)
    equal((await source.getRepository(Post).find({ where: { tenantId: 1 }, order: { id: 'ASC' }, take: 2 })).length, 2)
  },
  async builder() {
    const row = await source.createQueryBuilder(Post, 'p').select('max(p.id)', 'max').where('p.tenantId = :id', { id: 1 }).getRawOne()
    equal(row.max > 0, true)
  },
  async transaction() {
    await source.transaction('SERIALIZABLE', async (manager) => {
      await manager.update(Post, { tenantId: 3 }, { title: 'x' })
    })
    const runner = source.createQueryRunner()
    await runner.startTransaction()
    await runner.manager.delete(Post, { tenantId: 3 })
    await runner.rollbackTransaction()
    await runner.release()
    equal(await source.getRepository(Post).countBy({ title: 'x' }), 5)
  },
  async upsert() { await source.getRepository(Post).upsert({ id: 1, tenantId: 9 }, ['id']) },
  async concurrent() {
    const all = Array.from({ length: 40 }, (_, at) => source.getRepository(Post).findBy({ tenantId: at % 4 }))
    equal((await Promise.all(all)).length, 40)
  },
})
