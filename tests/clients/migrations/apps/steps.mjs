// Runs named steps one after the other and prints `ok NAME` or `not ok NAME: why`.
import assert from 'node:assert/strict'

const env = process.env
export const url = `postgres://${env.PGUSER}:${env.PGPASSWORD}@${env.PGHOST}:${env.PGPORT}/${env.PGDATABASE}`
export const connection = {
  host: env.PGHOST, port: Number(env.PGPORT), user: env.PGUSER, password: env.PGPASSWORD, database: env.PGDATABASE,
}
export const equal = assert.deepEqual

// Rows of 20 tenants, as data migrations write them.
export const tenants = Array.from({ length: 20 }, (_, at) => ({ id: at + 1, name: `t${at + 1}` }))
export const users = Array.from({ length: 100 }, (_, at) => ({ tenant_id: at % 20 + 1, email: `${at}@example.com` }))

export async function steps(all) {
  for (const [name, step] of Object.entries(all)) {
    try {
      await step()
      console.log(`ok ${name}`)
    } catch (error) {
      console.log(error)
      console.log(`not ok ${name}: ${error.message}`)
    }
  }
  process.exit(0)
}
