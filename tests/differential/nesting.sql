SELECT id FROM items WHERE tenant_id = 1 UNION ALL SELECT id FROM items WHERE tenant_id = 2

SELECT id FROM items WHERE tenant_id = 1 UNION SELECT id FROM items WHERE tenant_id = 1

SELECT id FROM items WHERE tenant_id = 1 UNION SELECT id FROM items WHERE tenant_id = 2

SELECT tenant_id, id FROM items UNION ALL SELECT tenant_id, id FROM orders

SELECT id FROM items UNION SELECT id FROM orders

SELECT item_id FROM orders INTERSECT SELECT id FROM items

SELECT item_id FROM orders EXCEPT SELECT id FROM items

SELECT item_id FROM orders WHERE tenant_id = 4 EXCEPT ALL SELECT id FROM items WHERE tenant_id = 4

SELECT tenant_id, item_id FROM orders EXCEPT SELECT tenant_id, id FROM items

SELECT plan_id FROM plans UNION SELECT plan_id FROM orders

SELECT name FROM plans UNION ALL SELECT key FROM settings

SELECT tenant_id, id, row_number() OVER (PARTITION BY tenant_id ORDER BY id) FROM items

SELECT tenant_id, id, row_number() OVER (ORDER BY tenant_id, id) FROM items

SELECT tenant_id, sum(amount) OVER (PARTITION BY status) FROM orders

SELECT tenant_id, sum(amount) OVER (PARTITION BY tenant_id, status) FROM orders

SELECT id, rank() OVER w FROM items WHERE tenant_id = 4 WINDOW w AS (ORDER BY qty)

SELECT id, rank() OVER w FROM items WINDOW w AS (PARTITION BY tenant_id ORDER BY qty)

SELECT count(*) OVER () FROM items WHERE tenant_id = 4

SELECT count(*) OVER () FROM items

SELECT tenant_id, count(*), sum(count(*)) OVER () FROM items GROUP BY tenant_id

WITH x AS (SELECT id FROM items WHERE tenant_id = 4) SELECT * FROM x

WITH x AS (SELECT * FROM items) SELECT id FROM x WHERE tenant_id = 4

WITH x AS MATERIALIZED (SELECT * FROM items) SELECT id FROM x WHERE tenant_id = 4

WITH x AS (SELECT count(*) AS n FROM items) SELECT n FROM x

WITH x AS (SELECT count(*) AS n FROM items WHERE tenant_id = 4) SELECT n, p.name FROM x, plans p

WITH x AS (SELECT tenant_id, count(*) AS n FROM items GROUP BY tenant_id) SELECT * FROM x

WITH x AS (SELECT id FROM items WHERE tenant_id = 1), y AS (SELECT id FROM items WHERE tenant_id = 2) SELECT * FROM x, y

WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT n FROM r

WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT n, i.id FROM r JOIN items i ON i.tenant_id = 4 AND i.id = n

WITH RECURSIVE r AS (SELECT tenant_id, id FROM items WHERE id = 1 UNION ALL SELECT i.tenant_id, i.id FROM items i JOIN r ON i.tenant_id = r.tenant_id AND i.id = r.id + 1) SELECT count(*) FROM r

WITH items AS (SELECT 1 AS tenant_id, 2 AS id) SELECT * FROM items

SELECT n FROM (SELECT count(*) AS n FROM items) x

SELECT x.tenant_id, x.n FROM (SELECT tenant_id, count(*) AS n FROM items GROUP BY tenant_id) x WHERE x.n > 3

SELECT x.tenant_id, x.n FROM (SELECT tenant_id, count(*) AS n FROM items GROUP BY tenant_id) x WHERE x.tenant_id = 5

SELECT max(n) FROM (SELECT status, count(*) AS n FROM orders GROUP BY status) x

SELECT max(n) FROM (SELECT tenant_id, count(*) AS n FROM orders GROUP BY tenant_id) x

SELECT * FROM (SELECT id FROM items WHERE tenant_id = 5 LIMIT 3) x

SELECT count(*) FROM (SELECT DISTINCT status FROM orders) x

SELECT count(*) FROM (SELECT tenant_id, id FROM items) x

SELECT i.tenant_id, i.id, l.amount FROM items i, LATERAL (SELECT amount FROM orders o WHERE o.tenant_id = i.tenant_id AND o.item_id = i.id ORDER BY amount LIMIT 1) l

SELECT i.id, l.amount FROM items i, LATERAL (SELECT amount FROM orders o WHERE o.item_id = i.id ORDER BY amount LIMIT 1) l WHERE i.tenant_id = 4

SELECT i.tenant_id, i.id, (SELECT count(*) FROM orders o WHERE o.tenant_id = i.tenant_id AND o.item_id = i.id) FROM items i

SELECT i.tenant_id, i.id, (SELECT count(*) FROM orders o WHERE o.item_id = i.id) FROM items i

SELECT id FROM items WHERE qty = (SELECT max(qty) FROM items)

SELECT id FROM items WHERE tenant_id = 4 AND qty = (SELECT max(qty) FROM items WHERE tenant_id = 4)

SELECT i.tenant_id, i.id FROM items i WHERE qty = (SELECT max(qty) FROM items j WHERE j.tenant_id = i.tenant_id)

SELECT id, tenant_id FROM items WHERE tenant_id IN (SELECT tenant_id FROM orders WHERE amount > 480)

SELECT id FROM orders WHERE plan_id IN (SELECT plan_id FROM plans WHERE price > 10)

SELECT id FROM items WHERE id > ALL (SELECT id FROM orders)

SELECT i.tenant_id, g FROM items i, generate_series(1, 2) g WHERE i.id = 1

SELECT tenant_id, unnest(tags) FROM items WHERE id = 1

SELECT ctid IS NULL, xmin IS NULL FROM items WHERE tenant_id = 4

SELECT tableoid FROM items LIMIT 1

SELECT count(DISTINCT now()) FROM items

SELECT random() < 2 FROM items

SELECT current_user, current_database() IS NOT NULL FROM items WHERE tenant_id = 3 LIMIT 1

SELECT id FROM items WHERE tenant_id = 4 FOR UPDATE

SELECT id FROM items FOR UPDATE

SELECT id FROM items WHERE qty > 8 ORDER BY id, tenant_id LIMIT 3 FOR UPDATE SKIP LOCKED

SELECT x.i FROM (SELECT i.*::text AS i FROM items i WHERE tenant_id = 2) x

--! text
SELECT i FROM items i WHERE tenant_id = 2

SELECT row_to_json(i) FROM items i WHERE tenant_id = 2

SELECT mood FROM items WHERE mood = 'happy'

--! text
SELECT array_agg(mood ORDER BY id) FROM items WHERE tenant_id = 9

SELECT * FROM orders JOIN plans p USING (plan_id) JOIN orders o ON o.tenant_id = orders.tenant_id + 1

SELECT x.a, x.b, x.c FROM (SELECT * FROM plans p JOIN (SELECT 1 AS id, 2 AS plan_id) q USING (plan_id) JOIN orders o ON o.id = q.id) AS x(a, b, c)

SELECT a.id FROM items a JOIN items b ON a.id = b.id + 7 WHERE a.flag -- tells more

--! params enum ok
SELECT a.id FROM items a JOIN items b ON a.id = b.id + 7 WHERE a.mood = $1

--! params enum ok|enum sad
SELECT mood, $2 = mood, count(*) FROM items WHERE mood IN ($1, $2) GROUP BY 1, 2 HAVING count(*) > 1

-- What a subquery orders stays in order.
--! ordered
SELECT * FROM (SELECT tenant_id, id FROM items WHERE qty > 3 ORDER BY qty, tenant_id, id) it LIMIT 7

--! ordered
WITH it AS (SELECT tenant_id, id FROM items ORDER BY id DESC, tenant_id), same AS (SELECT * FROM it WHERE id > 2) SELECT tenant_id, id FROM same OFFSET 5

--! ordered
SELECT tenant_id FROM (SELECT tenant_id, count(*) FROM orders GROUP BY tenant_id ORDER BY sum(amount) DESC, tenant_id) it LIMIT 5

--! ordered
SELECT * FROM item_list LIMIT 9

SELECT count(*), sum(qty) FROM item_list WHERE id > 3

--! ordered
SELECT tenant_id, id FROM item_list WHERE qty IN (SELECT max(qty) FROM items)
