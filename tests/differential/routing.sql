SELECT * FROM items WHERE tenant_id = 5

SELECT id, name FROM items WHERE 5 = tenant_id AND qty > 3

--! params int8 5
SELECT id, name, qty, price FROM items WHERE tenant_id = $1

--! params int4 7
SELECT id FROM items WHERE tenant_id = $1

--! params int8 null
SELECT id FROM items WHERE tenant_id = $1

SELECT id FROM items WHERE tenant_id = NULL

SELECT count(*) FROM items WHERE tenant_id IS NULL

SELECT tenant_id = 5 AS mine, id FROM items

SELECT id FROM items WHERE tenant_id = 5 OR qty = 3

SELECT id, tenant_id FROM items WHERE tenant_id = 5 OR tenant_id = 9

SELECT count(*) FROM items WHERE NOT (tenant_id = 5)

SELECT count(*) FROM items WHERE tenant_id <> 5

SELECT count(*) FROM items WHERE (tenant_id = 5) IS TRUE

SELECT count(*) FROM items WHERE (tenant_id = 5) IS NOT TRUE

SELECT CASE WHEN tenant_id = 5 THEN 1 ELSE 0 END AS c, id FROM items

SELECT count(*) FILTER (WHERE tenant_id = 5) FROM items

--! ordered
SELECT tenant_id, id FROM items ORDER BY tenant_id = 5, tenant_id, id

SELECT id FROM items WHERE tenant_id = 5 + 1

SELECT count(*) FROM items WHERE tenant_id + 1 = 5

SELECT count(*) FROM items WHERE tenant_id % 10 = 3

SELECT count(*) FROM items WHERE tenant_id = length('hello')

--! params int8 4
SELECT count(*) FROM items WHERE tenant_id = $1 + 1

SELECT tenant_id, id FROM items WHERE tenant_id IN (1, 2, 3)

SELECT tenant_id, id FROM items WHERE tenant_id IN (1, 2 + 1, 9)

SELECT count(*) FROM items WHERE tenant_id NOT IN (1, 2, 3)

--! params int8 1|int8 2|int8 null
SELECT tenant_id, id FROM items WHERE tenant_id IN ($1, $2, $3)

--! params int8[] {1,2,3,4,5}
SELECT tenant_id, id FROM items WHERE tenant_id = ANY ($1)

--! params int8[] {}
SELECT tenant_id, id FROM items WHERE tenant_id = ANY ($1)

--! params int8[] {6}
SELECT tenant_id, count(*) FROM items WHERE tenant_id = ANY ($1) GROUP BY tenant_id

SELECT tenant_id, id FROM items WHERE tenant_id = ANY (ARRAY[4, 8])

SELECT tenant_id, id FROM items WHERE tenant_id = ANY ('{4,8}')

SELECT count(*) FROM items WHERE tenant_id = ALL ('{4,8}')

SELECT count(*) FROM items WHERE tenant_id > 5 AND tenant_id < 9

SELECT count(*) FROM items WHERE tenant_id BETWEEN 5 AND 9

SELECT id FROM items WHERE tenant_id = 5 AND tenant_id = 6

SELECT id FROM items WHERE tenant_id = '5'

SELECT id FROM items WHERE tenant_id = '05'

SELECT id FROM items WHERE tenant_id = 5::bigint

SELECT id FROM items WHERE tenant_id = '5'::text::bigint

SELECT id FROM items WHERE tenant_id = 5.0

SELECT id FROM items WHERE tenant_id = -5

SELECT id FROM items WHERE tenant_id = 99999999999999999999

SELECT id FROM items WHERE tenant_id = 'x'

SELECT body FROM notes WHERE tenant_id = 'acme'

SELECT body FROM notes WHERE tenant_id = 'O''Neil'

SELECT body FROM notes WHERE tenant_id = E'O\'Neil'

SELECT body FROM notes WHERE tenant_id = $$x y$$

SELECT body FROM notes WHERE tenant_id = U&'\00FCmlaut'

SELECT body FROM notes WHERE tenant_id = '07'

SELECT body FROM notes WHERE tenant_id = lower('ACME')

SELECT count(*) FROM notes WHERE lower(tenant_id) = 'bits'

SELECT count(*) FROM notes WHERE tenant_id LIKE 'a%'

SELECT body FROM notes WHERE tenant_id = 'acme'::char(10)

SELECT body FROM notes WHERE tenant_id = 'acme' COLLATE "C"

--! params text Bits
SELECT id, body FROM notes WHERE tenant_id = $1

--! params uuid c4ca4238-a0b9-2382-0dcc-509a6f75849b
SELECT id, label FROM devices WHERE tenant_id = $1

SELECT id FROM devices WHERE tenant_id = 'C4CA4238A0B923820DCC509A6F75849B'

SELECT id FROM devices WHERE tenant_id = '{c4ca4238-a0b9-2382-0dcc-509a6f75849b}'

SELECT id FROM devices WHERE tenant_id = md5('1')::uuid

SELECT i.id, o.amount FROM items i JOIN orders o ON o.tenant_id = i.tenant_id AND o.item_id = i.id WHERE i.tenant_id = 5

SELECT i.id, o.amount FROM items i JOIN orders o USING (tenant_id, id) WHERE o.tenant_id = 5

SELECT i.id, o.amount FROM items i JOIN orders o USING (tenant_id) WHERE tenant_id = 6 AND o.item_id = i.id

SELECT i.id, o.amount FROM items i, orders o WHERE i.tenant_id = o.tenant_id AND o.item_id = i.id AND o.tenant_id = 7

SELECT i.id, o.id FROM items i JOIN orders o ON i.tenant_id = 5 AND o.tenant_id = 5 AND o.item_id = i.id

SELECT i.tenant_id, i.id, o.id FROM items i LEFT JOIN orders o ON i.tenant_id = o.tenant_id AND o.item_id = i.id AND i.tenant_id = 5

SELECT i.tenant_id, i.id, o.id FROM items i LEFT JOIN orders o ON i.tenant_id = o.tenant_id AND o.item_id = i.id AND o.tenant_id = 5 WHERE i.qty > 8

SELECT i.tenant_id, i.id, o.id FROM items i RIGHT JOIN orders o ON i.tenant_id = o.tenant_id AND o.item_id = i.id WHERE i.tenant_id = 5

SELECT i.tenant_id, o.tenant_id FROM items i FULL JOIN orders o ON i.tenant_id = o.tenant_id AND i.id = o.id WHERE i.tenant_id = 5 OR o.tenant_id = 5

SELECT i.id, o.id FROM items i JOIN orders o ON i.id = o.id WHERE i.tenant_id = 5

SELECT count(*) FROM items i JOIN orders o ON i.id = o.item_id

SELECT count(*) FROM items i JOIN orders o ON i.tenant_id = o.tenant_id AND i.id = o.item_id

SELECT count(*) FROM items WHERE tenant_id = 5 AND NOT EXISTS (SELECT 1 FROM orders WHERE tenant_id = 6 AND item_id = items.id)

SELECT id FROM items WHERE NOT EXISTS (SELECT 1 FROM orders o WHERE o.tenant_id = 5 AND o.item_id = items.id)

SELECT id FROM items i WHERE tenant_id = 5 AND EXISTS (SELECT 1 FROM orders o WHERE o.tenant_id = i.tenant_id AND o.item_id = i.id)

SELECT id FROM items WHERE tenant_id = 5 AND id IN (SELECT item_id FROM orders WHERE tenant_id = 5)

SELECT id FROM items WHERE tenant_id = 5 AND id NOT IN (SELECT item_id FROM orders WHERE tenant_id = 6)

SELECT id FROM items WHERE tenant_id = 5 AND id IN (SELECT item_id FROM orders)

SELECT EXISTS (SELECT 1 FROM items WHERE tenant_id = 17)

SELECT EXISTS (SELECT 1 FROM items)

SELECT (SELECT count(*) FROM items)

SELECT (SELECT count(*) FROM items WHERE tenant_id = 3) AS n

SELECT (SELECT max(qty) FROM items WHERE tenant_id = 3), (SELECT max(qty) FROM items WHERE tenant_id = 4)

SELECT tenant_id FROM items GROUP BY tenant_id HAVING tenant_id = 5

SELECT tenant_id, count(*) FROM items GROUP BY tenant_id HAVING tenant_id = 5 OR count(*) > 100

SELECT i.id, p.name FROM orders i JOIN plans p USING (plan_id) WHERE i.tenant_id = 5

SELECT p.name, o.tenant_id, o.id FROM orders o JOIN plans p USING (plan_id)

SELECT p.name, o.id FROM plans p LEFT JOIN orders o ON o.plan_id = p.plan_id AND o.tenant_id = 5

SELECT p.name, o.id FROM plans p LEFT JOIN orders o ON o.plan_id = p.plan_id AND o.amount > 480

SELECT o.id, s.value FROM orders o, settings s WHERE o.tenant_id = 5 AND s.key = 'theme'

SELECT count(*) FROM orders o, settings s

SELECT * FROM settings

SELECT * FROM plans

SELECT * FROM plans p JOIN settings s ON s.key = p.name OR s.key = 'theme'

SELECT * FROM (VALUES (1), (2)) v(x)

SELECT i.id, v.x FROM items i JOIN (VALUES (1::bigint), (2)) v(x) ON i.tenant_id = v.x

SELECT 1 AS one, 'x' AS two, NULL AS three

SELECT generate_series(1, 3)

SELECT * FROM big_items WHERE tenant_id = 4

SELECT * FROM big_items

SELECT twice(qty) FROM items WHERE tenant_id = 4

SELECT twice(qty) FROM items

SELECT count_items()

SELECT id FROM items WHERE tenant_id = (SELECT 5)

SELECT id FROM items WHERE tenant_id = (SELECT plan_id FROM plans WHERE name = 'team')

SELECT id FROM items WHERE (tenant_id, id) = (5, 3)

SELECT id, tenant_id FROM items WHERE (tenant_id, id) IN ((5, 3), (6, 4))

SELECT i.tenant_id, i.id FROM items i WHERE ROW(tenant_id, id) > ROW(20, 3)

SELECT items.tenant_id FROM public.items WHERE items.tenant_id = 5

SELECT t.* FROM items AS t(x, y) WHERE t.x = 5

SELECT tenant_id FROM items AS t(x, tenant_id) WHERE tenant_id = 5

SELECT * FROM ONLY items WHERE tenant_id = 2

SELECT id FROM items TABLESAMPLE BERNOULLI (100) WHERE tenant_id = 5

TABLE plans

TABLE orders

VALUES (1, 'a'), (2, 'b')

/* sluice.tenant=5 */ SELECT id FROM items WHERE tenant_id = 5

SELECT id /* a ' comment */ FROM items -- tenant_id = 9
WHERE tenant_id = 5
