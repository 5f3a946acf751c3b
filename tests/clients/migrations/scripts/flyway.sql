-- What Flyway sends, and then two migrations.
SET extra_float_digits = 3;
SET application_name = 'Flyway by Redgate';
SELECT current_schema;
SHOW search_path;
SELECT pg_try_advisory_lock(77431708279161);
SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = 'public' AND c.relname = 'flyway_schema_history' AND c.relkind = 'r');
SELECT EXISTS (
  SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_depend d ON d.objid = c.oid AND d.deptype = 'e'
  WHERE n.nspname = 'public' AND d.objid IS NULL AND c.relkind IN ('r', 'v', 'S', 't')
  UNION ALL
  SELECT t.oid FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
  LEFT JOIN pg_catalog.pg_depend d ON d.objid = t.oid AND d.deptype = 'e'
  WHERE n.nspname = 'public' AND d.objid IS NULL AND t.typcategory NOT IN ('A', 'C')
  UNION ALL
  SELECT p.oid FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
  LEFT JOIN pg_catalog.pg_depend d ON d.objid = p.oid AND d.deptype = 'e'
  WHERE n.nspname = 'public' AND d.objid IS NULL);
BEGIN;
CREATE TABLE "public"."flyway_schema_history" (
    "installed_rank" INT NOT NULL, "version" VARCHAR(50), "description" VARCHAR(200) NOT NULL, "type" VARCHAR(20) NOT NULL,
    "script" VARCHAR(1000) NOT NULL, "checksum" INTEGER, "installed_by" VARCHAR(100) NOT NULL,
    "installed_on" TIMESTAMP NOT NULL DEFAULT now(), "execution_time" INTEGER NOT NULL, "success" BOOLEAN NOT NULL
);
ALTER TABLE "public"."flyway_schema_history" ADD CONSTRAINT "flyway_schema_history_pk" PRIMARY KEY ("installed_rank");
CREATE INDEX "flyway_schema_history_s_idx" ON "public"."flyway_schema_history" ("success");
COMMIT;
-- V1, with its row of the history in the same transaction.
BEGIN;
SELECT pg_try_advisory_xact_lock(77431708279162);
SELECT "installed_rank", "version", "success" FROM "public"."flyway_schema_history" WHERE "installed_rank" > -1 ORDER BY "installed_rank";
CREATE TABLE tenants (id bigint PRIMARY KEY, name text);
CREATE TYPE status AS ENUM ('open', 'done');
CREATE TABLE accounts (id bigserial PRIMARY KEY, tenant_id bigint NOT NULL REFERENCES tenants (id), name varchar(100) NOT NULL, status status DEFAULT 'open');
CREATE INDEX accounts_name ON accounts (name);
CREATE TABLE entries (tenant_id bigint, id bigint GENERATED ALWAYS AS IDENTITY, account_id bigint REFERENCES accounts (id) ON DELETE CASCADE,
  amount numeric(12, 2) NOT NULL, PRIMARY KEY (tenant_id, id));
INSERT INTO "public"."flyway_schema_history" ("installed_rank", "version", "description", "type", "script", "checksum", "installed_by", "execution_time", "success")
  VALUES (1, '1', 'first', 'SQL', 'V1__first.sql', 1234, 'app', 5, true);
COMMIT;
-- V2: data, and all kinds of changes.
BEGIN;
INSERT INTO tenants SELECT x, 't' || x FROM generate_series(1, 20) x;
INSERT INTO accounts (tenant_id, name) SELECT x % 20 + 1, 'a' || x FROM generate_series(1, 60) x;
INSERT INTO entries (tenant_id, account_id, amount) SELECT tenant_id, id, 10.50 FROM accounts;
UPDATE accounts SET status = 'done' WHERE name LIKE 'a1%';
ALTER TABLE accounts RENAME COLUMN name TO title;
ALTER TABLE accounts ALTER COLUMN title TYPE text, ALTER COLUMN title SET DEFAULT 'none', ADD COLUMN limits jsonb NOT NULL DEFAULT '{}';
ALTER TABLE entries ADD CONSTRAINT positive CHECK (amount > 0) NOT VALID;
ALTER TABLE entries VALIDATE CONSTRAINT positive;
COMMENT ON TABLE accounts IS 'of customers';
CREATE VIEW balances AS SELECT tenant_id, account_id, sum(amount) AS balance FROM entries GROUP BY tenant_id, account_id;
CREATE OR REPLACE FUNCTION half(x numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT x / 2';
GRANT SELECT ON balances TO PUBLIC;
INSERT INTO "public"."flyway_schema_history" ("installed_rank", "version", "description", "type", "script", "checksum", "installed_by", "execution_time", "success")
  VALUES (2, '2', 'second', 'SQL', 'V2__second.sql', 5678, 'app', 7, true);
COMMIT;
-- A migration that fails leaves nothing.
BEGIN;
CREATE TABLE half_made (tenant_id bigint, x int);
INSERT INTO half_made VALUES (1, 1), (2, 2), (3, 3), (4, 4);
ALTER TABLE accounts ADD COLUMN nope int REFERENCES nowhere (id);
COMMIT;
SELECT to_regclass('half_made') IS NULL AS nothing;
SELECT "installed_rank", "version", "success" FROM "public"."flyway_schema_history" ORDER BY "installed_rank" DESC;
SELECT pg_advisory_unlock(77431708279161);
SELECT status, count(*), count(DISTINCT id) = count(*) AS once FROM accounts GROUP BY status ORDER BY status;
SELECT sum(balance), count(*) FROM balances;
