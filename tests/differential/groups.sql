SELECT status, count(*), sum(amount) FROM orders GROUP BY status

SELECT status, count(*) FROM orders GROUP BY 1

SELECT status AS s, count(*) FROM orders GROUP BY s

SELECT count(*) FROM orders GROUP BY status

SELECT tenant_id, count(*), max(amount) FROM orders GROUP BY tenant_id

SELECT tenant_id, avg(amount) FROM orders GROUP BY tenant_id

SELECT tenant_id, string_agg(status, ',' ORDER BY id) FROM orders GROUP BY tenant_id

SELECT status, tenant_id, count(*) FROM orders GROUP BY tenant_id, status

SELECT amount > 200 AS big, count(*) FROM orders GROUP BY amount > 200

SELECT qty % 3 AS m, sum(id) FROM items GROUP BY qty % 3

SELECT name, count(*) FROM items GROUP BY name

SELECT lower(name), count(*) FROM items GROUP BY lower(name)

SELECT mood, count(*) FROM items GROUP BY mood

SELECT day, count(*) FROM items GROUP BY day

SELECT flag, min(at), max(at) FROM items GROUP BY flag

SELECT price, count(*) FROM items GROUP BY price

SELECT score, count(*) FROM items GROUP BY score

SELECT status, count(*) FROM orders GROUP BY status HAVING count(*) > 39

SELECT status, count(*) FROM orders GROUP BY status HAVING sum(amount) > 10000

--! ordered
SELECT status, count(*) AS n FROM orders GROUP BY status ORDER BY status

--! ordered
SELECT status, count(*) AS n FROM orders GROUP BY status ORDER BY n DESC, status

--! ordered
SELECT status FROM orders GROUP BY status ORDER BY sum(amount) DESC

--! ordered
SELECT status, sum(amount) FROM orders GROUP BY status ORDER BY sum(amount) DESC LIMIT 2

--! ordered
SELECT status, sum(amount) FROM orders GROUP BY status ORDER BY 2 LIMIT 1 OFFSET 1

SELECT status FROM orders GROUP BY status

SELECT status, plan_id, count(*) FROM orders GROUP BY ROLLUP (status, plan_id)

SELECT status, plan_id, count(*) FROM orders GROUP BY CUBE (status, plan_id)

SELECT status, plan_id, count(*) FROM orders GROUP BY GROUPING SETS ((status), (plan_id), ())

SELECT tenant_id, status, count(*) FROM orders WHERE tenant_id = 4 GROUP BY ROLLUP (tenant_id, status)

SELECT p.name, count(*) FROM orders o JOIN plans p USING (plan_id) GROUP BY p.name

SELECT date_trunc('day', at), count(*) FROM items WHERE tenant_id <> 3 GROUP BY 1

SELECT count(*) FROM orders WHERE amount < 0 GROUP BY status

SELECT status, count(*) * 2 + 1 FROM orders GROUP BY status

SELECT tenant_id % 2 AS parity, sum(amount), count(DISTINCT status) FROM orders GROUP BY parity

SELECT tenant_id, count(DISTINCT status) FROM orders GROUP BY tenant_id

SELECT id FROM items GROUP BY tenant_id, id HAVING id = 3

SELECT name FROM items GROUP BY status

SELECT DISTINCT status FROM orders

SELECT DISTINCT status, plan_id FROM orders

--! ordered
SELECT DISTINCT status FROM orders ORDER BY status DESC

--! ordered
SELECT DISTINCT qty FROM items ORDER BY qty LIMIT 4

SELECT DISTINCT tenant_id FROM items

SELECT DISTINCT name FROM items

SELECT DISTINCT score FROM items

SELECT DISTINCT price FROM items

SELECT DISTINCT mood FROM items

SELECT DISTINCT tags FROM items WHERE tenant_id = 4

--! ordered
SELECT DISTINCT ON (status) status, amount, tenant_id, id FROM orders ORDER BY status, amount DESC, tenant_id, id

--! ordered
SELECT DISTINCT ON (tenant_id) tenant_id, amount FROM orders ORDER BY tenant_id, amount, id

SELECT DISTINCT count(*) FROM orders GROUP BY tenant_id
