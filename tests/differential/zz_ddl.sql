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
