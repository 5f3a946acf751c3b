--! ordered
SELECT tenant_id, id, name FROM items WHERE qty > 3 ORDER BY qty DESC, tenant_id, id LIMIT 5 FOR UPDATE

--! ordered
SELECT tenant_id, id FROM items ORDER BY qty DESC NULLS LAST, tenant_id DESC, id LIMIT 7 OFFSET 3 FOR NO KEY UPDATE SKIP LOCKED

--! ordered
SELECT id * 2 AS twice, * FROM orders WHERE status = 'new' OR amount > 400 ORDER BY amount, 1, tenant_id FETCH FIRST 4 ROWS ONLY FOR SHARE NOWAIT

--! ordered
--! params int8 4|int8 6
SELECT id, status FROM orders WHERE id >= $1 ORDER BY tenant_id, id LIMIT $2 FOR UPDATE SKIP LOCKED

--! ordered
--! params int8 null
SELECT id FROM orders WHERE tenant_id > 20 ORDER BY tenant_id, id LIMIT $1 FOR KEY SHARE

--! params int8 -1
SELECT id FROM orders LIMIT $1 FOR UPDATE

SELECT id FROM items WHERE qty > 100000 LIMIT 3 FOR UPDATE

SELECT id FROM items LIMIT 0 FOR UPDATE

--! same
SELECT id FROM items LIMIT 3 FOR UPDATE SKIP LOCKED

--! ordered
SELECT o.tenant_id, o.id, i.name FROM orders o JOIN items i ON i.tenant_id = o.tenant_id AND i.id = o.item_id ORDER BY o.amount, o.tenant_id, o.id LIMIT 4 FOR UPDATE OF o SKIP LOCKED

--! ordered
SELECT o.id, p.name FROM orders o JOIN plans p USING (plan_id) ORDER BY o.tenant_id, o.id LIMIT 4 FOR UPDATE OF o

SELECT o.id FROM orders o LEFT JOIN items i ON i.tenant_id = o.tenant_id AND i.id = o.item_id ORDER BY o.tenant_id, o.id LIMIT 4 FOR UPDATE OF o

SELECT status, count(*) FROM orders GROUP BY status LIMIT 1 FOR UPDATE

SELECT DISTINCT status FROM orders LIMIT 1 FOR UPDATE

SELECT id FROM orders ORDER BY nothing LIMIT 1 FOR UPDATE

SELECT id FROM orders ORDER BY id LIMIT 1 FOR UPDATE OF nothing

SELECT 1 / (id - 1) FROM orders ORDER BY tenant_id, id LIMIT 1 FOR UPDATE

--! then SELECT tenant_id, id, status FROM orders
UPDATE orders SET status = 'taken' WHERE (tenant_id, id) IN (SELECT tenant_id, id FROM orders WHERE status = 'new' ORDER BY amount, tenant_id, id LIMIT 5 FOR UPDATE SKIP LOCKED) RETURNING *

--! then SELECT tenant_id, id, status FROM orders
UPDATE orders SET status = 'one' WHERE (tenant_id, id) = (SELECT tenant_id, id FROM orders WHERE status <> 'one' ORDER BY amount DESC, tenant_id, id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING tenant_id, id

--! then SELECT tenant_id, id, status FROM orders
--! params text paid|int8 3|text it's
WITH picked AS (SELECT tenant_id, id FROM orders WHERE status = $1 ORDER BY amount, tenant_id, id FOR UPDATE SKIP LOCKED LIMIT $2) UPDATE orders o SET status = $3 FROM picked WHERE o.tenant_id = picked.tenant_id AND o.id = picked.id RETURNING o.*

--! then SELECT tenant_id, id, qty FROM items
WITH picked AS MATERIALIZED (SELECT *, name AS "a ""name" FROM items WHERE qty > 2 ORDER BY qty, tenant_id, id LIMIT 6 FOR UPDATE) UPDATE items SET qty = items.qty + 1 FROM picked p WHERE (items.tenant_id, items.id) = (p.tenant_id, p.id) RETURNING items.id, p.qty, "a ""name", p.mood, p.tags, p.at, p.doc

--! then SELECT tenant_id, id FROM orders
DELETE FROM orders WHERE (tenant_id, id) IN (SELECT tenant_id, id FROM orders WHERE amount < 200 ORDER BY amount, tenant_id, id LIMIT 4 FOR UPDATE SKIP LOCKED) RETURNING id

--! then SELECT tenant_id, id FROM orders
DELETE FROM orders USING (SELECT tenant_id AS t, id AS i FROM orders WHERE status = 'sent' AND tenant_id < 4 FOR UPDATE) q WHERE tenant_id = t AND id = i

--! then SELECT tenant_id, id FROM orders
WITH gone AS (DELETE FROM orders WHERE (tenant_id, id) IN (SELECT tenant_id, id FROM orders WHERE amount > 300 ORDER BY amount, tenant_id, id LIMIT 3 FOR UPDATE SKIP LOCKED) RETURNING tenant_id, id) SELECT tenant_id, id FROM gone ORDER BY 1, 2

--! then SELECT tenant_id, id, status FROM orders
UPDATE orders SET status = 'none' WHERE (tenant_id, id) IN (SELECT tenant_id, id FROM orders WHERE amount > 100000 LIMIT 3 FOR UPDATE) RETURNING *

--! then SELECT tenant_id, id, status FROM orders
UPDATE orders SET status = 'five' WHERE (tenant_id, id) IN (SELECT tenant_id, id FROM orders WHERE tenant_id = 5 ORDER BY id LIMIT 2 FOR UPDATE SKIP LOCKED)

UPDATE orders SET status = 'many' WHERE id = (SELECT id FROM orders ORDER BY amount LIMIT 2 FOR UPDATE SKIP LOCKED)

UPDATE orders SET status = 'x' WHERE id IN (SELECT nothing FROM orders LIMIT 2 FOR UPDATE)

--! ordered
SELECT q.id, p.name FROM (SELECT plan_id, id FROM orders ORDER BY amount, tenant_id, id LIMIT 4 FOR UPDATE) q JOIN plans p ON p.plan_id = q.plan_id ORDER BY 1, 2
