SELEC 1

SELECT 1 / 0

SELECT 1 / 0 FROM items WHERE tenant_id = 5

SELECT 1 / (id - 3) FROM items

SELECT nothing FROM items

SELECT * FROM nowhere

SELECT nowhere(1)

SELECT 'x'::int

SELECT id FROM items WHERE tenant_id = 5 AND name = 3

--! params text x
SELECT id FROM items WHERE tenant_id = $1::bigint

--! simple
SELECT id FROM items WHERE tenant_id = 1; SELECT id FROM items WHERE tenant_id = 2

--! simple
--! then SELECT count(*) FROM orders
INSERT INTO orders (tenant_id, id) VALUES (80, 1); INSERT INTO orders (tenant_id, id) VALUES (81, 1); SELECT count(*) FROM orders

--! simple
--! then SELECT count(*) FROM orders
INSERT INTO orders (tenant_id, id) VALUES (82, 1); INSERT INTO orders (tenant_id, id) VALUES (83, 1); SELECT 1 / 0

--! simple
--! bare
--! then SELECT count(*) FROM orders
BEGIN; INSERT INTO orders (tenant_id, id) VALUES (84, 1); INSERT INTO orders (tenant_id, id) VALUES (85, 1); COMMIT

--! simple
--! bare
--! then SELECT count(*) FROM orders
BEGIN; INSERT INTO orders (tenant_id, id) VALUES (86, 1); INSERT INTO orders (tenant_id, id) VALUES (87, 1); ROLLBACK

--! simple
--! bare
--! then SELECT count(*) FROM orders
BEGIN; INSERT INTO orders (tenant_id, id) VALUES (88, 1); SAVEPOINT a; INSERT INTO orders (tenant_id, id) VALUES (89, 1); ROLLBACK TO a; INSERT INTO orders (tenant_id, id) VALUES (90, 1); RELEASE a; COMMIT

--! simple
--! bare
COMMIT

--! simple
--! bare
ROLLBACK TO nothing

--! simple
--! bare
--! then SELECT count(*) FROM orders
BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO orders (tenant_id, id) VALUES (91, 1); COMMIT

--! simple
;

--! simple
SELECT 1;;SELECT 2

SHOW search_path

SHOW server_version_num

SET statement_timeout = '10s'

SHOW statement_timeout

RESET statement_timeout

SHOW statement_timeout

--! bare
SET TimeZone = 'Europe/Berlin'

SELECT at FROM items WHERE tenant_id = 4

--! ordered
SELECT at, tenant_id FROM items ORDER BY at, tenant_id, id LIMIT 5

RESET TimeZone

SELECT set_config('work_mem', '8MB', false)

SHOW work_mem

--! bare
RESET ALL

--! simple
--! bare
PREPARE a (bigint) AS SELECT id FROM items WHERE tenant_id = $1

--! simple
--! bare
EXECUTE a (5)

--! simple
--! bare
DEALLOCATE ALL

SELECT relname FROM pg_class WHERE relname IN ('items', 'orders') AND relkind = 'r'

SELECT typname FROM pg_type WHERE typname = 'mood'

SELECT 'items'::regclass::text

SELECT count(*) > 5 FROM information_schema.tables

SELECT nextval('nothing')

SELECT pg_sleep(0)

--! simple
--! bare
DISCARD ALL

--! block
DECLARE c CURSOR FOR SELECT tenant_id, id, name, mood FROM items ORDER BY name, tenant_id, id; FETCH 3 FROM c; MOVE 5 IN c; FETCH 2 FROM c; CLOSE c

--! block
DECLARE c CURSOR FOR SELECT status, avg(amount) FROM orders GROUP BY status ORDER BY 1; FETCH NEXT FROM c; FETCH ALL FROM c; FETCH ALL FROM c

--! bare
DECLARE c CURSOR FOR SELECT status, avg(amount) FROM orders GROUP BY status

--! block
DECLARE c SCROLL CURSOR FOR SELECT avg(amount) FROM orders
