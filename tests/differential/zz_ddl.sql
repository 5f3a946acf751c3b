--! bare
--! then SELECT * FROM fresh
CREATE TABLE fresh (tenant_id bigint NOT NULL, id bigint, PRIMARY KEY (tenant_id, id))

--! bare
CREATE TABLE IF NOT EXISTS home_table (a int PRIMARY KEY)

--! bare
--! then SELECT * FROM fresh
INSERT INTO fresh (tenant_id, id) VALUES (1, 1), (2, 1), (3, 1), (4, 1), (5, 1)

--! bare
--! simple
--! then SELECT * FROM fresh
ALTER TABLE fresh ADD COLUMN label text DEFAULT 'x'

--! bare
--! simple
CREATE INDEX fresh_label ON fresh (label)

--! bare
--! simple
CREATE UNIQUE INDEX fresh_unique ON fresh (label)

--! bare
--! simple
CREATE INDEX CONCURRENTLY fresh_later ON fresh (id)

--! bare
--! simple
CREATE TABLE loose (tenant_id bigint, id serial PRIMARY KEY)

--! bare
--! simple
CREATE VIEW fresh_view AS SELECT tenant_id, label FROM fresh

--! bare
SELECT * FROM fresh_view WHERE tenant_id = 2

--! bare
--! simple
CREATE TYPE color AS ENUM ('red', 'blue')

--! bare
--! simple
ALTER TYPE color ADD VALUE 'green'

--! bare
--! simple
CREATE TABLE fresh (a int)

--! bare
--! simple
COMMENT ON TABLE fresh IS 'new'

--! bare
--! simple
VACUUM fresh

--! bare
--! simple
ANALYZE fresh

--! bare
--! simple
--! then SELECT * FROM fresh
TRUNCATE fresh

--! bare
--! simple
DROP VIEW fresh_view

--! bare
--! simple
DROP TABLE fresh

--! bare
--! simple
DROP TABLE fresh

--! bare
--! simple
--! then SELECT count(*) FROM pg_class WHERE relname = 'undone'
BEGIN; CREATE TABLE undone (tenant_id bigint PRIMARY KEY); ROLLBACK

--! block
ANALYZE items, orders

--! simple
--! bare
ANALYZE items; ANALYZE orders

--! bare
--! simple
CREATE TABLE numbered (tenant_id bigint, id bigserial, no int GENERATED ALWAYS AS IDENTITY, PRIMARY KEY (tenant_id, id))

--! bare
--! simple
--! then SELECT count(DISTINCT id), count(DISTINCT no), min(id), count(*) FROM numbered
INSERT INTO numbered (tenant_id) SELECT g FROM generate_series(1, 40) g

--! bare
--! simple
--! then SELECT count(DISTINCT id), count(DISTINCT no), count(*) FROM numbered
INSERT INTO numbered (tenant_id, id) VALUES (1, DEFAULT), (2, nextval('numbered_id_seq')), (3, DEFAULT), (4, DEFAULT)

--! bare
--! simple
INSERT INTO numbered (tenant_id, no) VALUES (1, 5)

--! bare
--! simple
--! then SELECT count(DISTINCT extra), count(*) FROM numbered
ALTER TABLE numbered ADD COLUMN extra serial

--! bare
SELECT setval('numbered_id_seq', 5000)

--! bare
SELECT setval('numbered_id_seq', 5000, false) AS place

--! bare
SELECT setval('numbered_id_seq', 0)

--! bare
--! simple
ALTER SEQUENCE numbered_id_seq RESTART WITH 9000

--! bare
--! simple
--! then SELECT count(*), bool_and(id >= 9000) FROM numbered WHERE tenant_id > 100
INSERT INTO numbered (tenant_id) VALUES (101), (102), (103), (104), (105)

--! bare
--! simple
--! then SELECT count(*) FROM numbered
TRUNCATE numbered RESTART IDENTITY

--! bare
--! simple
DROP TABLE numbered

--! bare
--! then SELECT * FROM copied ORDER BY tenant_id, id
--! then SELECT tenant_id, count(*) FROM copied GROUP BY tenant_id ORDER BY 1
CREATE TABLE copied AS SELECT * FROM items

--! bare
--! then SELECT * FROM counted_by_status ORDER BY status
CREATE TABLE counted_by_status AS SELECT status, count(*) AS n, sum(amount) AS total, 'x' AS label, NULL AS nothing, now() > '2020-01-01' AS late FROM orders GROUP BY status

--! bare
CREATE TABLE IF NOT EXISTS counted_by_status AS SELECT 1 AS a

--! bare
CREATE TABLE counted_by_status AS SELECT 1 AS a

--! bare
--! then SELECT * FROM named ORDER BY 1, 2
CREATE TABLE named (tenant_id, total) AS SELECT i.tenant_id, sum(o.amount) FROM items i JOIN orders o ON o.item_id = i.id WHERE i.qty > 1 GROUP BY 1

--! bare
--! then SELECT * FROM nobody
CREATE TABLE nobody WITH (fillfactor = 70) AS TABLE orders WITH NO DATA

--! bare
--! then SELECT * FROM picked ORDER BY 1, 2, 3
WITH i AS (SELECT * FROM items WHERE qty > 3) SELECT i.tenant_id, i.id, i.mood INTO picked FROM i ORDER BY 1, 2 LIMIT 11

--! bare
--! then SELECT * FROM few ORDER BY 1
CREATE UNLOGGED TABLE few AS SELECT key AS code, value AS name FROM settings UNION ALL SELECT code, name FROM countries UNION SELECT status, 's' FROM orders

--! bare
CREATE VIEW few_things AS SELECT upper(name) AS name FROM few

--! bare
SELECT count(*), max(name) FROM few_things

--! bare
COPY (SELECT * FROM few ORDER BY 1, 2) TO STDOUT

--! bare
DROP VIEW few_things

--! bare
--! then SELECT * FROM one_tenant
CREATE TABLE one_tenant AS SELECT id, name FROM items WHERE tenant_id = 5 ORDER BY id WITH DATA

--! bare
CREATE TABLE broken AS SELECT id / (id - 3) AS x FROM items

--! bare
CREATE TABLE broken AS SELECT nothing FROM items

--! bare
--! then SELECT * FROM by_tenant ORDER BY tenant_id
--! then SELECT * FROM by_tenant WHERE tenant_id = 7
CREATE MATERIALIZED VIEW by_tenant AS SELECT tenant_id, count(*) AS n, max(qty) AS most FROM items GROUP BY tenant_id

--! bare
--! then SELECT sum(n) FROM by_tenant
UPDATE items SET qty = 99 WHERE tenant_id = 7

--! bare
--! then SELECT * FROM by_tenant WHERE most = 99
REFRESH MATERIALIZED VIEW by_tenant

--! bare
CREATE MATERIALIZED VIEW all_of_them AS SELECT count(*) AS n FROM items

--! bare
--! then SELECT (SELECT count(*) FROM copied), (SELECT count(*) FROM counted_by_status)
TRUNCATE copied, counted_by_status

--! bare
DROP TABLE copied, counted_by_status, named, nobody, picked, few, one_tenant

--! block
REINDEX TABLE fresh

--! bare
--! simple
--! then SELECT count(DISTINCT made), count(DISTINCT day), count(*) = count(noted), min(made) <= now() FROM items
--! then INSERT INTO items (tenant_id, id) VALUES (1, 990) RETURNING made = now(), day = CURRENT_DATE, noted = timezone('utc', now())
--! then SELECT attname, pg_get_expr(adbin, adrelid) FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum WHERE adrelid = 'items'::regclass ORDER BY 1
ALTER TABLE items ADD COLUMN made timestamptz NOT NULL DEFAULT now(), ADD COLUMN day date DEFAULT CURRENT_DATE

--! bare
--! simple
--! then SELECT count(DISTINCT made), count(DISTINCT noted), count(*) = count(noted), min(made) <= now() FROM items
--! then SELECT attname, pg_get_expr(adbin, adrelid) FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum WHERE adrelid = 'items'::regclass ORDER BY 1
ALTER TABLE items ADD COLUMN made timestamptz NOT NULL DEFAULT now(), ADD COLUMN noted timestamp(3) DEFAULT (now() AT TIME ZONE 'utc')

--! bare
--! simple
ALTER TABLE items ADD COLUMN later timestamptz DEFAULT now() CHECK (later <= now())

--! bare
--! simple
ALTER TABLE items DROP COLUMN made, DROP COLUMN noted

--! bare
--! simple
CREATE TABLE dated (tenant_id int, id int)

--! bare
--! simple
INSERT INTO dated SELECT n, n FROM generate_series(1, 20) n

--! bare
--! simple
--! then SELECT count(DISTINCT at), count(*) FROM dated
DO $$ BEGIN ALTER TABLE dated ADD COLUMN at timestamptz DEFAULT now(); END $$

--! bare
--! simple
DROP TABLE dated

--! bare
--! simple
--! then SELECT * FROM of_home
CREATE MATERIALIZED VIEW of_home AS SELECT key FROM settings

--! bare
--! simple
CREATE MATERIALIZED VIEW later AS SELECT tenant_id, id FROM items WITH NO DATA

--! bare
--! simple
--! then SELECT count(*) FROM later
REFRESH MATERIALIZED VIEW later

--! bare
--! simple
--! then SELECT * FROM counted_home
CREATE MATERIALIZED VIEW counted_home AS SELECT count(*) AS n, 10 / count(*) AS part FROM settings WITH DATA

--! bare
--! simple
--! then SELECT * FROM of_home
CREATE VIEW over_home AS SELECT key FROM of_home

--! bare
--! simple
--! then SELECT * FROM counted_home
REFRESH MATERIALIZED VIEW counted_home

--! bare
--! simple
DROP MATERIALIZED VIEW of_home, later, counted_home CASCADE
