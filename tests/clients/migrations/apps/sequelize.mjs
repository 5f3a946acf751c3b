// Sequelize: umzug with its query interface, and `sync` of models.
import { DataTypes, Sequelize } from 'sequelize'
import { SequelizeStorage, Umzug } from 'umzug'
import { equal, steps, tenants, users, url } from './steps.mjs'

const db = new Sequelize(url, { logging: false, pool: { max: 4 } })
const q = db.getQueryInterface()
const id = { type: DataTypes.BIGINT, primaryKey: true, autoIncrement: true }
const tenant_id = { type: DataTypes.BIGINT, allowNull: false, references: { model: 'tenants', key: 'id' }, onDelete: 'CASCADE' }
const dates = { createdAt: { type: DataTypes.DATE, allowNull: false, defaultValue: DataTypes.NOW }, updatedAt: DataTypes.DATE }

const migrations = [
  {
    name: '1_first',
    async up() {
      await q.createTable('plans', { id: { ...id, type: DataTypes.INTEGER }, name: { type: DataTypes.STRING, unique: true } })
      await q.createTable('tenants', { id: { type: DataTypes.BIGINT, primaryKey: true }, name: DataTypes.STRING })
      await q.createTable('settings', { key: { type: DataTypes.STRING, primaryKey: true }, value: DataTypes.JSONB })
      await q.createTable('users', {
        id, tenant_id, email: { type: DataTypes.STRING, allowNull: false }, name: { type: DataTypes.STRING, defaultValue: 'nobody' },
        role: { type: DataTypes.ENUM('owner', 'member'), defaultValue: 'member' }, ...dates,
      }, { uniqueKeys: { users_email: { fields: ['tenant_id', 'email'] } } })
      await q.createTable('projects', {
        id: { type: DataTypes.UUID, primaryKey: true, defaultValue: db.literal('gen_random_uuid()') }, tenant_id,
        owner_id: { type: DataTypes.BIGINT, references: { model: 'users', key: 'id' }, onUpdate: 'CASCADE', onDelete: 'SET NULL' }, title: DataTypes.TEXT,
      })
    },
    async down() { for (const it of ['projects', 'users', 'settings', 'tenants', 'plans']) await q.dropTable(it) },
  },
  {
    name: '2_data',
    async up() {
      await q.bulkInsert('tenants', tenants)
      const now = new Date()
      await q.bulkInsert('users', users.map((it) => ({ ...it, createdAt: now, updatedAt: now })))
      await q.bulkUpdate('users', { name: 'somebody' }, {})
      await db.query("INSERT INTO projects (tenant_id, owner_id, title) SELECT tenant_id, id, 'p' FROM users WHERE email LIKE '1%'")
    },
    async down() { for (const it of ['projects', 'users', 'tenants']) await q.bulkDelete(it, {}) },
  },
  {
    name: '3_later',
    async up() {
      await q.renameColumn('users', 'name', 'full_name')
      await q.addColumn('users', 'active', { type: DataTypes.BOOLEAN, defaultValue: true, allowNull: false })
      await q.changeColumn('users', 'email', { type: DataTypes.STRING(400), allowNull: false })
      await q.changeColumn('users', 'role', { type: DataTypes.ENUM('owner', 'member'), defaultValue: 'owner' })
      await q.addIndex('users', ['email'])
      await q.addIndex('projects', ['owner_id'], { concurrently: true, name: 'by_owner' })
      await q.addConstraint('users', { fields: ['email', 'tenant_id'], type: 'unique', name: 'users_again' })
      await q.removeConstraint('users', 'users_tenant_id_email_key')
      await q.renameTable('settings', 'options')
    },
    async down() {
      await q.renameTable('options', 'settings')
      await q.addConstraint('users', { fields: ['tenant_id', 'email'], type: 'unique', name: 'users_tenant_id_email_key' })
      await q.removeConstraint('users', 'users_again')
      await q.removeIndex('projects', 'by_owner')
      await q.removeColumn('users', 'active')
      await q.renameColumn('users', 'full_name', 'name')
    },
  },
  {
    name: '4_in_a_transaction',
    async up() {
      await db.transaction(async (transaction) => {
        await q.createTable('notes', { id, tenant_id, body: DataTypes.TEXT }, { transaction })
        await q.bulkInsert('notes', tenants.map((it) => ({ tenant_id: it.id, body: 'x' })), { transaction })
        await q.addColumn('notes', 'user_id', { type: DataTypes.BIGINT, references: { model: 'users', key: 'id' } }, { transaction })
      })
    },
    async down() { await q.dropTable('notes') },
  },
]
const umzug = new Umzug({ migrations, context: q, storage: new SequelizeStorage({ sequelize: db }), logger: undefined })

await steps({
  async up() { equal((await umzug.up()).length, migrations.length) },
  async nothing_is_left() { equal((await umzug.pending()).length, 0) },
  async rows() {
    equal((await db.query("SELECT count(*) FROM users WHERE full_name = 'somebody' AND role = 'member'"))[0][0].count, '100')
    equal((await db.query('SELECT count(DISTINCT id) FROM notes'))[0][0].count, '20')
    equal((await q.describeTable('users')).email.type, 'CHARACTER VARYING(400)')
    equal((await q.showIndex('projects')).some((it) => it.name === 'by_owner'), true)
  },
  async down_and_up() { await umzug.down({ to: 0 }); await umzug.up() },
  async sync_of_models() {
    const options = { timestamps: false }
    const Item = db.define('items', { tenant_id, name: DataTypes.STRING }, { ...options, indexes: [{ unique: true, fields: ['tenant_id', 'name'] }] })
    await db.sync()
    const made = await Item.bulkCreate(tenants.map((it) => ({ tenant_id: it.id, name: 'a' })))
    equal(new Set(made.map((it) => it.id)).size, 20)
    db.define('items', { tenant_id, name: DataTypes.TEXT, more: { type: DataTypes.INTEGER, defaultValue: 3 } }, options)
    await db.sync({ alter: true })
    equal((await db.query('SELECT sum(more) FROM items'))[0][0].sum, '60')
  },
})
