// Runs named steps one after the other and prints `ok NAME` or `not ok NAME: why`.
import assert from 'node:assert/strict'

export const url = `postgres://${process.env.PGUSER}:${process.env.PGPASSWORD}@${process.env.PGHOST}:${process.env.PGPORT}/${process.env.PGDATABASE}`
export const connection = {
  host: process.env.PGHOST,
  port: Number(process.env.PGPORT),
  user: process.env.PGUSER,
  password: process.env.PGPASSWORD,
  database: process.env.PGDATABASE,
}
export const equal = assert.deepEqual

const within = (seconds, promise) => {
  let timer
  const late = new Promise((_, no) => { timer = setTimeout(() => no(new Error(`no end within ${seconds} s`)), seconds * 1000) })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

export async function steps(all) {
  for (const [name, step] of Object.entries(all)) {
    try {
      await within(20, step())
      console.log(`ok ${name}`)
    } catch (error) {
      console.log(`not ok ${name}: ${error.message}`)
    }
  }
  process.exit(0)
}
