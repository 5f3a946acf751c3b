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
