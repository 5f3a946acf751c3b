-- What Prisma Migrate sends: its lock, its table, each migration as one text.
SELECT EXISTS(SELECT 1 FROM pg_namespace WHERE nspname = 'public');
SELECT pg_advisory_lock(72707369);
CREATE TABLE _prisma_migrations (id VARCHAR(36) PRIMARY KEY NOT NULL, checksum VARCHAR(64) NOT NULL, finished_at TIMESTAMPTZ, migration_name VARCHAR(255) NOT NULL, logs TEXT, rolled_back_at TIMESTAMPTZ, started_at TIMESTAMPTZ NOT NULL DEFAULT now(), applied_steps_count INTEGER NOT NULL DEFAULT 0);
SELECT id, migration_name FROM "_prisma_migrations" ORDER BY "started_at" ASC;
INSERT INTO "_prisma_migrations" ("id", "checksum", "migration_name") VALUES ('a', 'b', '20300101000000_first');
-- CreateEnum, CreateTable, CreateIndex, AddForeignKey
CREATE TYPE "Role" AS ENUM ('owner', 'member')\;
CREATE TABLE "tenants" ("id" BIGINT NOT NULL, "name" TEXT, CONSTRAINT "tenants_pkey" PRIMARY KEY ("id"))\;
CREATE TABLE "users" ("id" BIGSERIAL NOT NULL, "tenant_id" BIGINT NOT NULL, "email" TEXT NOT NULL, "role" "Role" NOT NULL DEFAULT 'member', CONSTRAINT "users_pkey" PRIMARY KEY ("id"))\;
CREATE TABLE "projects" ("id" UUID NOT NULL DEFAULT gen_random_uuid(), "tenant_id" BIGINT NOT NULL, "owner_id" BIGINT, "created_at" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP, CONSTRAINT "projects_pkey" PRIMARY KEY ("id"))\;
CREATE UNIQUE INDEX "users_tenant_id_email_key" ON "users"("tenant_id", "email")\;
ALTER TABLE "users" ADD CONSTRAINT "users_tenant_id_fkey" FOREIGN KEY ("tenant_id") REFERENCES "tenants"("id") ON DELETE CASCADE ON UPDATE CASCADE\;
ALTER TABLE "projects" ADD CONSTRAINT "projects_owner_id_fkey" FOREIGN KEY ("owner_id") REFERENCES "users"("id") ON DELETE SET NULL ON UPDATE CASCADE;
UPDATE "_prisma_migrations" SET "applied_steps_count" = "applied_steps_count" + 1, "logs" = '' WHERE "id" = 'a';
UPDATE "_prisma_migrations" SET "finished_at" = now() WHERE "id" = 'a';
INSERT INTO tenants SELECT x, 't' || x FROM generate_series(1, 9) x\; INSERT INTO users (tenant_id, email) SELECT id, name FROM tenants\; INSERT INTO projects (tenant_id, owner_id) SELECT tenant_id, id FROM users;
-- An enum with one value less, as Prisma writes it: in one transaction of its own.
BEGIN\;
CREATE TYPE "Role_new" AS ENUM ('member', 'guest')\;
ALTER TABLE "users" ALTER COLUMN "role" DROP DEFAULT\;
ALTER TABLE "users" ALTER COLUMN "role" TYPE "Role_new" USING ("role"::text::"Role_new")\;
ALTER TYPE "Role" RENAME TO "Role_old"\;
ALTER TYPE "Role_new" RENAME TO "Role"\;
DROP TYPE "Role_old"\;
ALTER TABLE "users" ALTER COLUMN "role" SET DEFAULT 'member'\;
COMMIT;
-- Warnings: AlterTable, DropIndex, RedefineTables
ALTER TABLE "users" ADD COLUMN "name" TEXT, ADD COLUMN "tags" TEXT[], ALTER COLUMN "email" SET DATA TYPE VARCHAR(400)\;
DROP INDEX "users_tenant_id_email_key"\;
CREATE UNIQUE INDEX "users_email_tenant_id_key" ON "users"("email", "tenant_id")\;
UPDATE "users" SET "name" = "email", "role" = 'guest';
DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_type WHERE typname = 'mood') THEN CREATE TYPE mood AS ENUM ('good', 'bad'); END IF; END $$;
SELECT pg_advisory_unlock(72707369);
SELECT "role", count(*), count(DISTINCT id) FROM users GROUP BY 1;
SELECT count(*) FROM projects p JOIN users u ON u.tenant_id = p.tenant_id AND u.id = p.owner_id WHERE u.name = u.email;
SELECT id, migration_name, finished_at IS NOT NULL AS finished, applied_steps_count FROM _prisma_migrations;
