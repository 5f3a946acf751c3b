--! same
SELECT id FROM items LIMIT 7

--! ordered
SELECT tenant_id, id FROM items ORDER BY tenant_id, id LIMIT 7

--! ordered
SELECT tenant_id, id FROM items ORDER BY tenant_id DESC, id LIMIT 5 OFFSET 30

--! same
SELECT id FROM items OFFSET 190

--! ordered
SELECT tenant_id, id FROM items ORDER BY tenant_id, id OFFSET 188

--! ordered
SELECT tenant_id, id FROM items ORDER BY tenant_id, id LIMIT ALL OFFSET 185

--! ordered
SELECT tenant_id, id FROM items ORDER BY tenant_id, id LIMIT NULL OFFSET NULL

--! ordered
SELECT tenant_id, id FROM items ORDER BY tenant_id, id LIMIT 0

--! ordered
SELECT tenant_id, id FROM items ORDER BY tenant_id, id LIMIT 5 + 5

--! ordered
--! params int8 4|int8 9
SELECT tenant_id, id FROM items ORDER BY tenant_id, id LIMIT $1 OFFSET $2

--! ordered
--! params text 4
SELECT tenant_id, id FROM items ORDER BY tenant_id, id LIMIT $1::int

--! ordered
--! params int8 null
SELECT tenant_id, id FROM items ORDER BY tenant_id, id LIMIT $1

--! params int8 -1
SELECT tenant_id, id FROM items ORDER BY tenant_id, id LIMIT $1

SELECT tenant_id, id FROM items ORDER BY tenant_id, id LIMIT -1

SELECT tenant_id, id FROM items ORDER BY tenant_id, id OFFSET -1

--! ordered
SELECT tenant_id, id FROM items ORDER BY tenant_id, id FETCH FIRST 3 ROWS ONLY

SELECT qty FROM items ORDER BY qty FETCH FIRST 3 ROWS WITH TIES

--! ordered
SELECT tenant_id, count(*) FROM items GROUP BY tenant_id ORDER BY tenant_id LIMIT 3

--! same
SELECT tenant_id, count(*) FROM items GROUP BY tenant_id LIMIT 3

SELECT count(*) FROM items LIMIT 1

SELECT count(*) FROM items OFFSET 1

SELECT count(*) FROM (SELECT id FROM items LIMIT 10) x

SELECT sum(qty) FROM (SELECT qty FROM items ORDER BY tenant_id, id LIMIT 10) x

--! ordered
SELECT id FROM items WHERE tenant_id = 5 ORDER BY id LIMIT 3 OFFSET 2

--! ordered
SELECT tenant_id, id FROM items WHERE tenant_id IN (1, 2, 3, 4) ORDER BY id, tenant_id LIMIT 6 OFFSET 3
