-- What Active Record sends: its session, catalog queries, advisory lock, migrations with and without a transaction.
SET client_min_messages TO 'warning';
SET standard_conforming_strings = on;
SET intervalstyle = iso_8601;
SET SESSION timezone TO 'UTC';
SHOW max_identifier_length;
SHOW standard_conforming_strings;
SELECT t.oid, t.typname, t.typelem, t.typdelim, t.typinput, r.rngsubtype, t.typtype, t.typbasetype FROM pg_type as t
  LEFT JOIN pg_range as r ON oid = rngtypid WHERE t.typname IN ('int2', 'int4', 'int8', 'oid', 'float4', 'text', 'varchar', 'bool', 'jsonb', 'uuid') ORDER BY 1;
SELECT pg_try_advisory_lock(4384093718429850);
SELECT c.relname FROM pg_class c LEFT JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ANY (current_schemas(false)) AND c.relname = 'schema_migrations' AND c.relkind IN ('r','p');
CREATE TABLE "schema_migrations" ("version" character varying NOT NULL PRIMARY KEY);
CREATE TABLE "ar_internal_metadata" ("key" character varying NOT NULL PRIMARY KEY, "value" character varying, "created_at" timestamp(6) NOT NULL, "updated_at" timestamp(6) NOT NULL);
SELECT * FROM "ar_internal_metadata" WHERE "ar_internal_metadata"."key" = 'environment' ORDER BY "ar_internal_metadata"."key" ASC LIMIT 1;
BEGIN;
INSERT INTO "ar_internal_metadata" ("key", "value", "created_at", "updated_at") VALUES ('environment', 'production', '2030-01-01 00:00:00', '2030-01-01 00:00:00') RETURNING "key";
COMMIT;
SELECT "schema_migrations"."version" FROM "schema_migrations" ORDER BY "schema_migrations"."version" ASC;
BEGIN;
CREATE EXTENSION IF NOT EXISTS "pgcrypto" SCHEMA public;
CREATE TABLE "tenants" ("id" bigint PRIMARY KEY, "name" character varying, "created_at" timestamp(6) NOT NULL DEFAULT '2030-01-01');
CREATE TYPE "role" AS ENUM ('owner', 'member');
CREATE TABLE "users" ("id" bigserial primary key, "tenant_id" bigint NOT NULL, "email" character varying NOT NULL, "role" role DEFAULT 'member' NOT NULL, "created_at" timestamp(6) NOT NULL, "updated_at" timestamp(6) NOT NULL, CONSTRAINT "fk_rails_135c8f54b2" FOREIGN KEY ("tenant_id") REFERENCES "tenants" ("id"));
CREATE INDEX "index_users_on_tenant_id" ON "users" ("tenant_id");
CREATE UNIQUE INDEX "index_users_on_tenant_id_and_email" ON "users" ("tenant_id", "email");
CREATE TABLE "posts" ("id" uuid DEFAULT gen_random_uuid() NOT NULL PRIMARY KEY, "tenant_id" bigint NOT NULL, "user_id" bigint, "title" character varying, "settings" jsonb DEFAULT '{}');
ALTER TABLE "posts" ADD CONSTRAINT "fk_rails_5b5ddfd518" FOREIGN KEY ("user_id") REFERENCES "users" ("id") ON DELETE CASCADE;
INSERT INTO "schema_migrations" ("version") VALUES ('20300101000000') RETURNING "version";
COMMIT;
BEGIN;
INSERT INTO "tenants" ("id", "name") VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd'), (5, 'e'), (6, 'f'), (7, 'g'), (8, 'h');
INSERT INTO "users" ("tenant_id", "email", "created_at", "updated_at") SELECT id, name || '@example.com', '2030-01-01', '2030-01-01' FROM "tenants";
UPDATE "users" SET "role" = 'owner' WHERE "users"."email" LIKE 'a%';
ALTER TABLE "users" ADD "name" character varying(80) DEFAULT 'nobody' NOT NULL;
ALTER TABLE "users" RENAME COLUMN "name" TO "full_name";
ALTER TABLE "users" ALTER COLUMN "full_name" TYPE character varying;
UPDATE "users" SET "full_name" = 'x' WHERE "full_name" IS NULL;
ALTER TABLE "users" ALTER COLUMN "full_name" DROP NOT NULL;
ALTER TABLE "users" ALTER COLUMN "full_name" SET DEFAULT 'y';
ALTER TABLE "users" ADD CONSTRAINT "chk_rails_1" CHECK (email <> '') NOT VALID;
ALTER TABLE "users" VALIDATE CONSTRAINT "chk_rails_1";
ALTER INDEX "index_users_on_tenant_id" RENAME TO "by_tenant";
COMMENT ON COLUMN "users"."email" IS 'where to';
INSERT INTO "schema_migrations" ("version") VALUES ('20300102000000') RETURNING "version";
COMMIT;
-- disable_ddl_transaction!
CREATE INDEX CONCURRENTLY "index_users_on_email" ON "users" ("email");
CREATE INDEX CONCURRENTLY IF NOT EXISTS "index_users_on_email" ON "users" ("email");
CREATE UNIQUE INDEX CONCURRENTLY "index_posts" ON "posts" ("tenant_id", "id");
ALTER TYPE "role" ADD VALUE IF NOT EXISTS 'guest';
DROP INDEX CONCURRENTLY "by_tenant";
REINDEX INDEX CONCURRENTLY "index_users_on_email";
VACUUM (ANALYZE) "users";
INSERT INTO "schema_migrations" ("version") VALUES ('20300103000000') RETURNING "version";
SELECT pg_advisory_unlock(4384093718429850);
SELECT a.attname, format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid), a.attnotnull, c.collname, col_description(a.attrelid, a.attnum) AS comment, attidentity AS identity, attgenerated as attgenerated
  FROM pg_attribute a LEFT JOIN pg_attrdef d ON a.attrelid = d.adrelid AND a.attnum = d.adnum LEFT JOIN pg_type t ON a.atttypid = t.oid
  LEFT JOIN pg_collation c ON a.attcollation = c.oid AND a.attcollation <> t.typcollation
  WHERE a.attrelid = '"users"'::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum;
SELECT distinct i.relname, d.indisunique, d.indkey, pg_get_indexdef(d.indexrelid), pg_catalog.obj_description(i.oid, 'pg_class') AS comment, d.indisvalid
  FROM pg_class t INNER JOIN pg_index d ON t.oid = d.indrelid INNER JOIN pg_class i ON d.indexrelid = i.oid LEFT JOIN pg_namespace n ON n.oid = t.relnamespace
  WHERE i.relkind IN ('i', 'I') AND d.indisprimary = 'f' AND t.relname = 'users' AND n.nspname = ANY (current_schemas(false)) ORDER BY i.relname;
SELECT t2.oid::regclass::text AS to_table, a1.attname AS column, a2.attname AS primary_key, c.conname AS name, c.confupdtype AS on_update, c.confdeltype AS on_delete, c.convalidated AS valid
  FROM pg_constraint c JOIN pg_class t1 ON c.conrelid = t1.oid JOIN pg_class t2 ON c.confrelid = t2.oid
  JOIN pg_attribute a1 ON a1.attnum = c.conkey[1] AND a1.attrelid = t1.oid JOIN pg_attribute a2 ON a2.attnum = c.confkey[1] AND a2.attrelid = t2.oid
  JOIN pg_namespace t3 ON c.connamespace = t3.oid WHERE c.contype = 'f' AND t1.relname = 'posts' AND t3.nspname = ANY (current_schemas(false)) ORDER BY c.conname;
SELECT a.attname FROM (SELECT indrelid, indkey, generate_subscripts(indkey, 1) idx FROM pg_index WHERE indrelid = '"users"'::regclass AND indisprimary) i
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[i.idx] ORDER BY i.idx;
SELECT type.typname AS name, n.nspname AS schema, array_agg(enum.enumlabel ORDER BY enum.enumsortorder) AS value FROM pg_enum AS enum JOIN pg_type AS type ON (type.oid = enum.enumtypid)
  JOIN pg_namespace n ON type.typnamespace = n.oid WHERE n.nspname = ANY (current_schemas(false)) GROUP BY type.OID, n.nspname, type.typname;
SELECT extname FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1;
-- reset_pk_sequence!
SELECT attr.attname, nsp.nspname, seq.relname FROM pg_class seq, pg_attribute attr, pg_depend dep, pg_constraint cons, pg_namespace nsp
  WHERE seq.oid = dep.objid AND seq.relkind = 'S' AND attr.attrelid = dep.refobjid AND attr.attnum = dep.refobjsubid AND attr.attrelid = cons.conrelid
  AND attr.attnum = cons.conkey[1] AND seq.relnamespace = nsp.oid AND cons.contype = 'p' AND dep.classid = 'pg_class'::regclass AND dep.refobjid = '"users"'::regclass;
SELECT max("id") > 7 AS many FROM "users";
SELECT setval('"public"."users_id_seq"', 1000, true);
SELECT setval(pg_get_serial_sequence('users', 'id'), coalesce(max(id), 0) * 0 + 5000, max(id) IS NULL) FROM users;
SELECT "users"."role", count(*) FROM "users" GROUP BY "users"."role" ORDER BY 1;
BEGIN;
SAVEPOINT active_record_1;
DELETE FROM "schema_migrations" WHERE "schema_migrations"."version" = '20300103000000';
ROLLBACK TO SAVEPOINT active_record_1;
RELEASE SAVEPOINT active_record_1;
DROP TABLE "posts";
ALTER TABLE "users" DROP COLUMN "full_name";
ALTER TABLE "users" RENAME TO "people";
ALTER SEQUENCE "users_id_seq" RENAME TO "people_id_seq";
ALTER INDEX "users_pkey" RENAME TO "people_pkey";
ALTER TABLE "people" RENAME CONSTRAINT "fk_rails_135c8f54b2" TO "fk_rails_2";
COMMIT;
SELECT count(*), count(DISTINCT id) FROM "people";
INSERT INTO "people" ("tenant_id", "email", "created_at", "updated_at") VALUES (3, 'new', '2030-01-01', '2030-01-01');
SELECT count(*), count(DISTINCT id) FROM "people";
