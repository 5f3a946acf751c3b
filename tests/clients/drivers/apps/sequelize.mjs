import { DataTypes, Sequelize, Transaction } from 'sequelize'
import { equal, steps, url } from './lib.mjs'

const db = new Sequelize(url, { logging: false, pool: { max: 8 } })
const User = db.define('SequelizeUser', {
  tenantId: { type: DataTypes.INTEGER, allowNull: false },
  name: DataTypes.STRING,
  mood: DataTypes.ENUM('good', 'bad'),
  tags: DataTypes.ARRAY(DataTypes.TEXT),
})
const Note = db.define('SequelizeNote', { text: DataTypes.TEXT })
User.hasMany(Note)
Note.belongsTo(User)

await steps({
  async authenticate() { await db.authenticate() },
  async sync() {
    await db.sync({ force: true })
    await db.sync({ alter: true })
  },
  async create() {
    const user = await User.create({ tenantId: 1, name: 'a', mood: 'good', tags: ['x', 'y'] })
    await user.createSequelizeNote({ text: 'hello' })
    await User.bulkCreate(Array.from({ length: 20 }, (_, at) => ({ tenantId: at % 2, name: `n${at}` })))
  },
  async include() {
    const user = await User.findOne({ where: { name: 'a' }, include: Note })
    equal(user.SequelizeNotes[0].text, 'hello')
    equal(user.tags, ['x', 'y'])
  },
  async query() {
    const { count, rows } = await User.findAndCountAll({ where: { tenantId: 0 }, limit: 3, order: ['id'] })
    equal([count, rows.length], [10, 3])
  },
  async transaction() {
    await db.transaction({ isolationLevel: Transaction.ISOLATION_LEVELS.SERIALIZABLE }, async (transaction) => {
      await User.update({ mood: 'bad' }, { where: { tenantId: 0 }, transaction })
    })
    await db.transaction(async (transaction) => {
      await User.destroy({ where: {}, transaction })
      throw new Error('no')
    }).catch(() => {})
    equal(await User.count({ where: { mood: 'bad' } }), 10)
  },
  async upsert() { await User.upsert({ id: 1, tenantId: 5, name: 'up' }) },
  async describe() { equal('tenantId' in (await db.getQueryInterface().describeTable('SequelizeUsers')), true) },
})
