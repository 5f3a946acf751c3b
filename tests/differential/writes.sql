--! then SELECT * FROM orders WHERE tenant_id = 50
INSERT INTO orders (tenant_id, id, amount) VALUES (50, 1, 9.5)

--! params int8 51|int8 1|text paid
--! then SELECT * FROM orders WHERE tenant_id = 51
INSERT INTO orders (tenant_id, id, status) VALUES ($1, $2, $3)

INSERT INTO orders (tenant_id, id, amount) VALUES (1, 1, 9.5)

--! then SELECT * FROM orders WHERE tenant_id > 51
INSERT INTO orders (tenant_id, id, amount) VALUES (52, 1, 1), (53, 1, 2), (54, 1, 3), (52, 2, 4)

--! ordered
--! then SELECT * FROM orders WHERE tenant_id > 54
INSERT INTO orders (tenant_id, id, amount) VALUES (55, 1, 1), (56, 1, 2), (57, 1, 3), (55, 2, 4) RETURNING id, tenant_id AS t, status

--! params int8 58|int8 59|int8 60
--! then SELECT * FROM orders WHERE tenant_id > 57
INSERT INTO orders (tenant_id, id) VALUES ($1, 1), ($2, 1), ($3, 1)

--! then SELECT count(*) FROM orders
INSERT INTO orders (tenant_id, id) VALUES (61, 1), (62, 1), (1, 1)

INSERT INTO orders (tenant_id, id) VALUES (NULL, 1)

INSERT INTO orders (id) VALUES (1)

INSERT INTO orders (tenant_id, id) VALUES (DEFAULT, 1)

INSERT INTO orders (tenant_id, id) VALUES (60 + 3, 1)

INSERT INTO orders VALUES (64, 1, 2, 3, 4.5, 'sent')

INSERT INTO orders VALUES (64, 2)

INSERT INTO orders SELECT tenant_id, id + 100, item_id, plan_id, amount, status FROM orders WHERE tenant_id = 4

INSERT INTO orders SELECT tenant_id, id + 200, item_id, plan_id, amount, status FROM orders

INSERT INTO orders (tenant_id, id) SELECT 65, 1

INSERT INTO orders (tenant_id, id) SELECT 66, g FROM generate_series(1, 3) g

--! then SELECT * FROM orders WHERE tenant_id = 1
INSERT INTO orders (tenant_id, id, amount) VALUES (1, 1, 77) ON CONFLICT (tenant_id, id) DO UPDATE SET amount = excluded.amount

--! then SELECT count(*) FROM orders
INSERT INTO orders (tenant_id, id) VALUES (1, 1), (2, 1), (3, 99) ON CONFLICT DO NOTHING

INSERT INTO orders (tenant_id, id) VALUES (1, 1), (2, 1), (3, 98) ON CONFLICT DO NOTHING RETURNING tenant_id, id

--! then SELECT count(*) FROM orders WHERE status = 'late'
UPDATE orders SET status = 'late' WHERE tenant_id = 5

--! params text gone|int8 6
UPDATE orders SET status = $1 WHERE tenant_id = $2

--! then SELECT count(*) FROM orders WHERE status = 'dear'
UPDATE orders SET status = 'dear' WHERE amount > 400

UPDATE orders SET status = 'dear' WHERE amount > 400 RETURNING tenant_id, id, amount

UPDATE orders SET amount = amount + 1

UPDATE orders SET tenant_id = 6 WHERE tenant_id = 5 AND id = 2

UPDATE orders SET tenant_id = 5 WHERE tenant_id = 5 AND id = 2

UPDATE orders SET status = 'x' WHERE (tenant_id, id) IN (SELECT tenant_id, id FROM orders ORDER BY amount, tenant_id, id LIMIT 1)

UPDATE orders SET status = 'top' WHERE amount = (SELECT max(amount) FROM orders)

UPDATE orders o SET amount = i.qty FROM items i WHERE i.tenant_id = o.tenant_id AND i.id = o.item_id AND o.tenant_id = 7

UPDATE orders o SET amount = i.qty FROM items i WHERE i.tenant_id = o.tenant_id AND i.id = o.item_id

UPDATE orders SET amount = 0 WHERE tenant_id IN (7, 8, 9)

UPDATE orders SET status = random()::text WHERE tenant_id = 10 AND false

--! then SELECT count(*) FROM orders
DELETE FROM orders WHERE tenant_id = 11 AND id = 3

DELETE FROM orders WHERE tenant_id = 12 RETURNING *

--! then SELECT count(*) FROM orders
DELETE FROM orders WHERE amount < 20

DELETE FROM orders WHERE id IN (SELECT id FROM orders ORDER BY id LIMIT 1)

DELETE FROM orders o USING items i WHERE o.tenant_id = i.tenant_id AND o.item_id = i.id AND i.qty = 10

DELETE FROM orders WHERE ctid = '(0,1)'

MERGE INTO orders o USING (VALUES (4::bigint, 1::bigint)) v(t, i) ON o.tenant_id = v.t AND o.id = v.i WHEN MATCHED THEN UPDATE SET amount = 5 WHEN NOT MATCHED THEN DO NOTHING

WITH gone AS (DELETE FROM orders WHERE tenant_id = 13 RETURNING *) SELECT count(*) FROM gone

WITH gone AS (DELETE FROM orders WHERE amount = 3 RETURNING *) SELECT count(*) FROM gone

WITH made AS (INSERT INTO orders (tenant_id, id) VALUES (70, 1) RETURNING id) SELECT id FROM made

--! then SELECT * FROM plans
INSERT INTO plans VALUES (4, 'huge', 999)

--! then SELECT * FROM plans
UPDATE plans SET price = price + 1

UPDATE plans SET price = price + 1 WHERE name = 'team' RETURNING *

UPDATE plans SET price = (random() * 100)::int

INSERT INTO countries VALUES ('AT', 'Austria'), ('SE', (now() > '2020-01-01')::text), ('NO', clock_timestamp()::text)

--! then SELECT * FROM plans
DELETE FROM plans WHERE plan_id = 4

INSERT INTO plans SELECT 9, 'nine', count(*) FROM items

INSERT INTO plans VALUES (1, 'twice', 1)

--! then SELECT * FROM settings
INSERT INTO settings VALUES ('lang', 'de')

--! then SELECT * FROM settings
UPDATE settings SET value = upper(value)

DELETE FROM settings WHERE key = 'lang'

--! then SELECT * FROM notes
INSERT INTO notes VALUES ('new', 1, 'n'), ('07', 9, 'n'), ('O''Neil', 9, 'n')

INSERT INTO notes VALUES ('new', 2, 'far too long for this column')

INSERT INTO devices VALUES ('A87FF679-A2F3-E71D-9181-A67B7542122C', 5, 'upper')

INSERT INTO devices VALUES ('nonsense', 5, 'x')

--! params uuid a87ff679-a2f3-e71d-9181-a67b7542122c|int4 6
INSERT INTO devices (tenant_id, id) VALUES ($1, $2)

TRUNCATE devices

--! then SELECT count(*) FROM devices
DELETE FROM devices WHERE id = 2

LOCK TABLE orders IN SHARE MODE

-- Writes that depend on rows of several shards.

--! then SELECT * FROM orders
UPDATE orders SET status = 'top' WHERE amount > (SELECT avg(amount) FROM orders) AND id IN (SELECT id FROM items WHERE flag)

--! then SELECT * FROM orders
UPDATE orders o SET status = i.name, amount = o.amount + i.qty FROM items i WHERE i.tenant_id = o.tenant_id + 1 AND i.id = o.id AND i.qty > 2 RETURNING o.tenant_id, o.id, o.status, i.name

--! then SELECT * FROM orders
UPDATE orders SET amount = (SELECT max(amount) FROM orders) WHERE tenant_id = 3 AND id = 2 RETURNING *

--! then SELECT * FROM orders
--! params int8 4|numeric 100
UPDATE orders SET amount = amount + $2 WHERE item_id = $1 AND plan_id = (SELECT max(plan_id) FROM orders WHERE tenant_id <= $1)

--! then SELECT * FROM orders
DELETE FROM orders WHERE amount < (SELECT avg(amount) FROM orders) AND NOT EXISTS (SELECT FROM items i WHERE i.id = orders.item_id AND i.qty > 8)

--! then SELECT * FROM orders
DELETE FROM orders o USING items i WHERE i.qty = o.item_id AND i.tenant_id < 3 RETURNING o.tenant_id, o.id

--! then SELECT * FROM orders
UPDATE orders SET status = (SELECT value FROM settings WHERE key = 'theme') WHERE tenant_id = 5

--! then SELECT * FROM orders
UPDATE orders SET status = s.value FROM settings s WHERE s.key = 'mail' AND orders.id = 1

--! then SELECT * FROM orders
DELETE FROM orders WHERE status IN (SELECT key FROM settings) OR id > (SELECT count(*) FROM settings)

--! then SELECT * FROM settings
INSERT INTO settings SELECT status, count(*) FROM orders GROUP BY status

--! then SELECT * FROM settings
INSERT INTO settings (key, value) SELECT 'avg', avg(amount)::text FROM orders ON CONFLICT (key) DO UPDATE SET value = excluded.value RETURNING key, value

--! then SELECT * FROM settings
WITH top AS (SELECT max(amount) AS m FROM orders) INSERT INTO settings SELECT 'max', m FROM top RETURNING *

--! then SELECT * FROM settings
UPDATE settings SET value = (SELECT count(*) FROM items) WHERE key = 'theme' RETURNING value

--! then SELECT * FROM settings
DELETE FROM settings s USING orders o WHERE o.status = s.key OR s.key = 'mail' AND o.amount > 400

--! then SELECT * FROM plans
UPDATE plans SET price = (SELECT count(*) FROM orders WHERE orders.plan_id = plans.plan_id)

--! then SELECT * FROM plans
INSERT INTO plans SELECT 10, 'ten', max(id) FROM items RETURNING *

--! then SELECT * FROM plans
DELETE FROM plans WHERE plan_id NOT IN (SELECT plan_id FROM orders WHERE amount > 450)

--! then SELECT * FROM orders
INSERT INTO orders SELECT tenant_id, id + 300, id, 1, qty, 'copied' FROM items WHERE qty > 3 RETURNING tenant_id, id

--! then SELECT * FROM orders
INSERT INTO orders (tenant_id, id, amount) SELECT i.tenant_id, i.id, sum(o.amount) FROM items i JOIN orders o USING (tenant_id) GROUP BY 1, 2 ON CONFLICT (tenant_id, id) DO UPDATE SET amount = excluded.amount

INSERT INTO orders (tenant_id, id) SELECT tenant_id + 1, id + 400 FROM items

UPDATE orders SET amount = random() WHERE amount = (SELECT max(amount) FROM orders)

DELETE FROM orders WHERE id = (SELECT id FROM items ORDER BY qty, tenant_id, id LIMIT 1)

UPDATE orders SET status = NULL WHERE amount = (SELECT max(amount) FROM orders)

UPDATE settings SET key = NULL WHERE key = (SELECT min(status) FROM orders) OR key = 'mail'

--! then SELECT * FROM orders
DELETE FROM orders WHERE (tenant_id, id) IN (SELECT tenant_id, id FROM orders ORDER BY amount DESC, tenant_id, id LIMIT 10)

--! then SELECT * FROM orders
UPDATE orders SET status = 'first' WHERE (tenant_id, id) IN (SELECT tenant_id, id FROM (SELECT tenant_id, id, row_number() OVER (PARTITION BY status ORDER BY amount, tenant_id, id) AS n FROM orders) x WHERE n = 1) RETURNING tenant_id, id

--! ordered
SELECT tenant_id, id, amount FROM orders WHERE amount > 300 ORDER BY amount, tenant_id, id FOR UPDATE

SELECT o.tenant_id, o.id FROM orders o JOIN items i USING (tenant_id, id) WHERE i.flag FOR NO KEY UPDATE OF o NOWAIT

--! then SELECT * FROM items
UPDATE items SET flag = at < now(), day = day + (current_date > '2020-01-01')::int, span = now() - now() WHERE qty > 5

--! then SELECT * FROM items
UPDATE items SET flag = CURRENT_TIMESTAMP > at, name = (now() = now())::text WHERE qty > 7 AND id IN (SELECT id FROM orders WHERE amount > 100) RETURNING tenant_id, id, now() > at

--! then SELECT * FROM countries
INSERT INTO countries VALUES ('CH', (now() > '2020-01-01')::text) RETURNING *

--! params enum ok|enum sad
--! block
--! then SELECT tenant_id, id FROM items WHERE id = 910
INSERT INTO items (tenant_id, id, mood) VALUES (1, 910, $1), (2, 910, $2), (3, 910, NULL), (4, 910, $1)

--! params enum ok|enum sad
--! block
--! then SELECT tenant_id, id FROM items WHERE mood = 'ok'
UPDATE items SET mood = $1 WHERE mood = $2

-- Rows that one server computes and that then go to their shards.

--! then SELECT count(*), sum(id), max(status), count(DISTINCT tenant_id) FROM orders WHERE tenant_id > 800
INSERT INTO orders (tenant_id, id, amount, status) SELECT 801 + n % 5, n, n * 1.5, 'made' FROM generate_series(1, 40) n

--! then SELECT * FROM orders WHERE tenant_id > 900
INSERT INTO orders SELECT tenant_id + 900, id, NULL, 2, '7', 'new' FROM orders WHERE amount > 400

--! ordered
INSERT INTO orders (id, tenant_id, status) SELECT id + 10, tenant_id + 700, upper(status) FROM orders WHERE tenant_id < 4 ORDER BY amount DESC, tenant_id, id RETURNING tenant_id AS t, id, status, amount

--! params int8 30|text once
--! then SELECT * FROM orders WHERE tenant_id > 600 AND tenant_id < 700
INSERT INTO orders (tenant_id, id, status) SELECT 601 + o.id, $1 + count(*), $2 FROM orders o JOIN plans USING (plan_id) GROUP BY o.id

--! then SELECT * FROM items WHERE tenant_id > 100
INSERT INTO items SELECT tenant_id + 100, id, name, qty, price, score, at, day, flag, tags, doc, mood, uid, ip, raw, code, span FROM items WHERE id < 3

--! then SELECT tenant_id, id, mood, day, tags FROM items WHERE tenant_id > 200
INSERT INTO items (tenant_id, id, mood, day, tags) SELECT 200 + n, 1, 'happy', '2025-02-03', '{a,"b c"}' FROM generate_series(1, 9) n

--! then SELECT * FROM orders WHERE tenant_id > 500 AND tenant_id < 600
WITH top AS (SELECT tenant_id, max(amount) AS most FROM orders GROUP BY tenant_id ORDER BY 2 DESC, 1 LIMIT 5) INSERT INTO orders (tenant_id, id, amount) SELECT 501 + row_number() OVER (ORDER BY most, tenant_id), 1, most FROM top

--! ordered
INSERT INTO orders (tenant_id, id, amount) VALUES (1 + 1, 1, 77), (3, 1, (SELECT max(amount) FROM orders)), (940, 4, 4) ON CONFLICT (tenant_id, id) DO UPDATE SET amount = excluded.amount RETURNING tenant_id, id, amount, item_id

--! then SELECT * FROM orders WHERE tenant_id IN (5, 6, 7)
INSERT INTO orders (tenant_id, id, amount) SELECT t, 3, -1 FROM generate_series(5, 7) t ON CONFLICT DO NOTHING

--! then SELECT * FROM notes
INSERT INTO notes SELECT code, 1, name FROM countries UNION ALL SELECT upper(tenant_id), id, body FROM notes WHERE id = 2

--! then SELECT * FROM devices
INSERT INTO devices SELECT md5('new' || n)::uuid, n, 'made' FROM generate_series(1, 12) n

INSERT INTO notes (tenant_id, id, body) SELECT 'x' || n, n, repeat('long', 9) FROM generate_series(1, 3) n

INSERT INTO notes (tenant_id, id, body) SELECT 'x', 'y', n FROM generate_series(1, 3) n

INSERT INTO orders (tenant_id, id) SELECT n FROM generate_series(1, 3) n

INSERT INTO orders (tenant_id, id) SELECT 2, 1 FROM generate_series(1, 3) n

INSERT INTO orders (tenant_id, id) SELECT NULL, n FROM generate_series(1, 3) n

INSERT INTO orders SELECT * FROM nowhere

-- Rows that move to other tenants.

--! then SELECT * FROM orders WHERE id < 5
UPDATE orders SET tenant_id = tenant_id + 1, status = 'moved' WHERE id = 2

--! then SELECT * FROM orders
UPDATE orders SET tenant_id = 301, id = id + 10 * tenant_id, amount = amount * 2 WHERE id IN (1, 3) AND tenant_id < 20

--! params int8 302|int8 5|text by parameter
--! then SELECT * FROM orders WHERE tenant_id IN (5, 302)
UPDATE orders AS o SET tenant_id = $1, status = $3 WHERE o.tenant_id = $2 RETURNING o.tenant_id, id, status, amount

--! params int8 5|int8 3
--! then SELECT * FROM orders WHERE tenant_id = 5
UPDATE orders SET tenant_id = $1, status = 'same' WHERE id = $2 AND tenant_id = $1

--! then SELECT * FROM items
UPDATE items SET tenant_id = 400 + id, mood = 'sad', tags = '{x}', at = '2026-01-01', name = NULL WHERE tenant_id = 7

--! then SELECT * FROM items
UPDATE items SET tenant_id = 500 + tenant_id

--! then SELECT * FROM notes
UPDATE notes SET tenant_id = 'new ' || tenant_id, body = upper(body) WHERE id = 1 RETURNING *

UPDATE orders SET tenant_id = NULL WHERE id = 2

UPDATE orders SET tenant_id = 'x' WHERE id = 2

UPDATE orders SET tenant_id = 3, id = 3 WHERE id = 1

UPDATE notes SET tenant_id = 'other', body = repeat('long', 9) WHERE id = 2

UPDATE orders SET tenant_id = tenant_id, amount = 1 WHERE id = 3

-- Data-modifying WITH whose parts stay with their tenants.

--! then SELECT * FROM orders
WITH gone AS (DELETE FROM orders WHERE amount > 300 RETURNING *) INSERT INTO orders SELECT tenant_id, id + 2000, item_id, plan_id, amount, 'archived' FROM gone

--! then SELECT * FROM orders
WITH paid AS (UPDATE orders SET amount = amount + 1 WHERE status = 'paid' RETURNING tenant_id AS t, id, amount AS a) SELECT count(*), sum(a), max(t) FROM paid

--! then SELECT * FROM orders
WITH paid AS (UPDATE orders SET amount = amount + 1 WHERE status = 'paid' RETURNING *) SELECT p.tenant_id, p.id, amount, i.name FROM paid p JOIN items i ON i.tenant_id = p.tenant_id AND i.id = p.id ORDER BY 1, 2

--! then SELECT * FROM items
WITH gone AS (DELETE FROM orders WHERE id = 2 RETURNING tenant_id, item_id) UPDATE items i SET qty = 0 FROM gone g WHERE g.tenant_id = i.tenant_id AND g.item_id = i.id RETURNING i.tenant_id, i.id

--! then SELECT count(*) FROM orders
WITH gone AS (DELETE FROM orders RETURNING tenant_id) SELECT * FROM gone WHERE tenant_id = 5

--! then SELECT count(*) FROM orders
WITH gone AS (DELETE FROM orders WHERE id < 4 RETURNING tenant_id), made AS (INSERT INTO orders (tenant_id, id) SELECT DISTINCT tenant_id, 5000 FROM gone RETURNING *) SELECT tenant_id, count(*) FROM made GROUP BY 1

--! then SELECT count(*) FROM orders
WITH gone AS (DELETE FROM orders WHERE id < 4 RETURNING tenant_id, id) SELECT id, count(*) FROM gone GROUP BY id ORDER BY 2 DESC, 1 LIMIT 2

--! then SELECT count(*) FROM orders
WITH gone AS (DELETE FROM orders WHERE tenant_id = 4 RETURNING *) INSERT INTO orders SELECT 5, id + 900, item_id, plan_id, amount, status FROM gone

--! then SELECT * FROM orders
UPDATE orders SET tenant_id = tenant_id + 1, id = id + 7000 -- to the next one

--! then SELECT * FROM orders
UPDATE orders SET tenant_id = 77, id = tenant_id * 100 + id /* all of them */ WHERE id < 3 -- those

--! then SELECT * FROM orders WHERE tenant_id > 1000
INSERT INTO orders (tenant_id, id) -- made
SELECT 1000 + n, 1 FROM generate_series(1, 5) n -- of nothing

--! then SELECT count(*) FROM orders
INSERT INTO orders (tenant_id, id, status) VALUES (1, 1, 'old'), (2, 99, 'new'), (3, 99, 'new'), (4, 1, 'old'), (5, 99, 'new') ON CONFLICT DO NOTHING RETURNING tenant_id, id, status

--! then SELECT count(*), sum(amount) FROM orders
INSERT INTO orders (tenant_id, id, amount) SELECT t, 3 * t, -1 FROM generate_series(1, 12) t ON CONFLICT (tenant_id, id) DO UPDATE SET amount = -2 WHERE orders.status = 'new' RETURNING *

-- MERGE of rows with those of their own tenants.

--! then SELECT * FROM orders
MERGE INTO orders o USING items i ON o.tenant_id = i.tenant_id AND o.id = i.id WHEN MATCHED AND i.qty > 5 THEN DELETE WHEN MATCHED THEN UPDATE SET amount = i.qty, status = i.name || '!' WHEN NOT MATCHED AND i.id < 8 THEN INSERT (tenant_id, id, amount) VALUES (i.tenant_id, i.id, -1)

--! then SELECT * FROM orders
MERGE INTO orders o USING plans p ON p.plan_id = o.plan_id AND o.id < 3 WHEN MATCHED THEN UPDATE SET amount = p.price

--! then SELECT * FROM orders
MERGE INTO orders o USING (SELECT tenant_id, max(id) AS most FROM items WHERE flag GROUP BY tenant_id) s ON s.tenant_id = o.tenant_id AND o.id = 2 WHEN MATCHED THEN UPDATE SET amount = most WHEN NOT MATCHED THEN INSERT VALUES (s.tenant_id, 2, NULL, NULL, most)

MERGE INTO orders o USING plans p ON p.plan_id = o.plan_id AND o.tenant_id = p.price WHEN NOT MATCHED THEN INSERT (tenant_id, id) VALUES (p.price, 1)

MERGE INTO orders o USING items i ON o.tenant_id = i.tenant_id AND o.id = i.id WHEN NOT MATCHED THEN INSERT (tenant_id, id) VALUES (i.id, i.tenant_id)

MERGE INTO orders o USING items i ON o.id = i.id WHEN MATCHED THEN DELETE

--! then SELECT count(*) FROM items
WITH gone AS (DELETE FROM items WHERE id > 5 RETURNING *) SELECT * FROM gone

-- A condition on what a part gives says nothing of which rows the part changes.

--! then SELECT count(*) FROM orders
WITH gone AS (DELETE FROM orders WHERE id = 1 RETURNING *) SELECT g.tenant_id, i.id FROM gone g JOIN items i ON i.tenant_id = g.tenant_id WHERE i.tenant_id = 5

--! then SELECT count(*), sum(o.amount), sum(i.qty) FROM orders o, items i WHERE i.tenant_id = o.tenant_id
WITH more AS (UPDATE orders SET amount = 3 WHERE id < 3 RETURNING tenant_id) UPDATE items i SET qty = 1 FROM more m WHERE m.tenant_id = i.tenant_id AND i.tenant_id = 5 AND i.id = 1

--! then SELECT count(*) FROM orders
WITH gone AS (DELETE FROM orders WHERE id = 1 RETURNING *) DELETE FROM items i USING gone g WHERE g.tenant_id = i.tenant_id AND g.tenant_id IN (5, 6)

--! then SELECT * FROM orders
MERGE INTO orders o USING items i ON o.tenant_id = i.tenant_id AND o.id = i.id AND i.tenant_id = 5 WHEN NOT MATCHED AND i.id > 5 THEN INSERT (tenant_id, id, amount) VALUES (i.tenant_id, i.id + 40, 4)

--! then SELECT count(*), sum(amount) FROM orders
WITH gone AS (DELETE FROM orders WHERE id = 1 RETURNING *), most AS (SELECT max(id) AS m FROM items) SELECT g.tenant_id, m FROM gone g, most

--! then SELECT * FROM orders
UPDATE orders o SET tenant_id = tenant_id + 1, id = id + 3000 WHERE EXISTS (SELECT 1 FROM orders x WHERE x.tenant_id = o.tenant_id AND x.id = o.id + 1)

--! params int8 null|int8 3
INSERT INTO orders (tenant_id, id) SELECT $1::bigint, $2 FROM generate_series(1, 2)

--! then SELECT * FROM items WHERE id IN (1, 90, 91) ORDER BY tenant_id, id
MERGE INTO items i USING (VALUES (1, 1, 'm1'), (2, 90, 'm2'), (3, 91, 'm3'), (4, 2, 'm4')) AS v(t, n, name) ON i.tenant_id = v.t AND i.id = v.n WHEN MATCHED AND v.name = 'm4' OR i.id = 77 THEN DELETE WHEN MATCHED THEN UPDATE SET name = v.name WHEN NOT MATCHED AND v.t > 0 OR v.n = 91 THEN INSERT (tenant_id, id, name) VALUES (v.t, v.n, v.name)

--! then SELECT * FROM orders WHERE id > 700 ORDER BY tenant_id, id
MERGE INTO orders o USING (SELECT item_id AS id, sum(tenant_id) AS t, count(*) AS n FROM orders GROUP BY item_id) s ON s.t = o.tenant_id AND o.id = s.id + 700 WHEN NOT MATCHED AND CASE WHEN s.n > 3 THEN true ELSE false END THEN INSERT (tenant_id, id, amount) VALUES (s.t, s.id + 700, s.n) WHEN MATCHED THEN DO NOTHING

--! then SELECT * FROM settings
MERGE INTO settings s USING (SELECT status, count(*) AS n FROM orders GROUP BY status) o ON s.key = o.status WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (o.status, o.n::text)

--! then SELECT * FROM countries
MERGE INTO countries c USING (VALUES ('DE', 'D'), ('XX', 'X')) AS v(code, name) ON c.code = v.code WHEN MATCHED THEN UPDATE SET name = v.name WHEN NOT MATCHED THEN INSERT VALUES (v.code, v.name)

--! then SELECT * FROM countries
MERGE INTO countries c USING (SELECT DISTINCT status FROM orders) o ON c.code = o.status WHEN NOT MATCHED THEN INSERT VALUES (o.status, upper(o.status))

--! then SELECT * FROM items WHERE name LIKE 'set %'
MERGE INTO items i USING settings s ON s.key = i.name WHEN MATCHED THEN UPDATE SET name = 'set ' || s.value

--! then SELECT count(*), sum(qty) FROM items
MERGE INTO items i USING orders o ON o.id = i.id AND o.tenant_id = 3 WHEN MATCHED AND i.qty > 4 THEN DELETE WHEN MATCHED THEN UPDATE SET qty = o.plan_id

MERGE INTO items i USING orders o ON o.id = i.id WHEN MATCHED THEN UPDATE SET qty = 1

MERGE INTO items i USING (VALUES (NULL::int, 1)) AS v(t, n) ON i.tenant_id = v.t AND i.id = v.n WHEN NOT MATCHED THEN INSERT (tenant_id, id) VALUES (v.t, v.n)

MERGE INTO items i USING (VALUES (1, 1), (1, 1)) AS v(t, n) ON i.tenant_id = v.t AND i.id = v.n WHEN MATCHED THEN UPDATE SET qty = 1

--! params int8 5|text x
--! then SELECT * FROM items WHERE tenant_id > 4 AND tenant_id < 8 AND id = 33
MERGE INTO items i USING (SELECT n, $2 AS name FROM generate_series($1, $1 + 2) n) v ON i.tenant_id = v.n AND i.id = 33 WHEN NOT MATCHED THEN INSERT (tenant_id, id, name) VALUES (v.n, 33, v.name)

MERGE INTO items i USING (VALUES (1, 1)) AS v(t, n) ON i.id = v.n WHEN NOT MATCHED THEN INSERT (tenant_id, id) VALUES (v.t, v.n)

--! then SELECT count(*) FROM orders
WITH gone AS (DELETE FROM orders WHERE id < 3 RETURNING *) SELECT status, avg(amount), count(DISTINCT item_id), (SELECT count(*) FROM orders) AS before FROM gone GROUP BY status

--! then SELECT count(*) FROM orders
--! then SELECT * FROM settings
WITH gone AS (DELETE FROM orders WHERE id < 3 RETURNING status, amount) INSERT INTO settings SELECT status, sum(amount)::text FROM gone GROUP BY status

--! then SELECT * FROM orders WHERE id > 900
WITH gone AS (DELETE FROM orders WHERE id = 1 RETURNING *) INSERT INTO orders SELECT tenant_id + 1, id + 900, item_id, plan_id, amount, status FROM gone RETURNING tenant_id, id

--! then SELECT count(*), sum(qty) FROM items
--! then SELECT * FROM notes WHERE id = 77
WITH changed (t, n, was) AS (UPDATE items SET qty = qty + 1 WHERE id = 2 RETURNING tenant_id, name, qty), made AS (INSERT INTO notes (tenant_id, id, body) SELECT DISTINCT n, 77, 'seen' FROM changed WHERE n = 'x y' RETURNING 1) SELECT max(was), string_agg(n, ',' ORDER BY n, t), (SELECT count(*) FROM items WHERE qty > 5), (SELECT count(*) FROM made) FROM changed

WITH gone AS (DELETE FROM items WHERE id = 1 RETURNING mood, tags, doc, tenant_id), best AS (SELECT mood, count(*) AS n FROM gone GROUP BY mood) SELECT g.tenant_id, g.tags, g.mood, b.n FROM gone g JOIN best b USING (mood)

--! params int8 4
--! then SELECT count(*) FROM items
WITH gone AS (DELETE FROM items WHERE id > $1 AND qty IN (SELECT o.plan_id FROM orders o WHERE o.tenant_id = items.tenant_id) RETURNING *), kept AS (SELECT * FROM items WHERE id <= $1) SELECT (SELECT count(*) FROM gone), (SELECT avg(price) FROM kept), (SELECT count(*) FROM gone JOIN kept USING (name))

WITH gone AS (DELETE FROM orders WHERE id < 3) SELECT count(DISTINCT status), avg(amount) FROM orders

WITH gone AS (DELETE FROM orders RETURNING 'gone' AS what, NULL AS nothing, 1 AS one, upper(status) AS s, item_id) SELECT what, nothing, sum(one), s, avg(item_id) FROM gone GROUP BY 1, 2, 4

WITH x AS (SELECT tenant_id, max(id) AS id FROM orders GROUP BY tenant_id), gone AS (DELETE FROM orders o USING x WHERE x.tenant_id = o.tenant_id AND x.id = o.id RETURNING o.amount) SELECT avg(amount) FROM gone

WITH gone AS (DELETE FROM orders RETURNING *) SELECT max(id) FROM gone UNION ALL SELECT count(*) FROM gone UNION ALL SELECT count(*) FROM orders

--! then SELECT count(*), count(DISTINCT made) FROM stamped WHERE id > 800 AND made = now()
MERGE INTO stamped s USING (VALUES (1, 900), (2, 901), (3, 902)) AS v(t, n) ON s.tenant_id = v.t AND s.id = v.n WHEN NOT MATCHED THEN INSERT (tenant_id, id) VALUES (v.t, v.n)

--! then SELECT count(*), count(DISTINCT made) FROM stamped WHERE id > 690 AND made = now()
INSERT INTO stamped VALUES (1, 700, DEFAULT), (2, 701, default), (3, 702, '2026-01-01 00:00:00+00'), (4, 703, DEFAULT) RETURNING id

--! params int8 5
--! then SELECT count(*), count(DISTINCT made) FROM stamped WHERE id > 690 AND made = now()
INSERT INTO stamped (made, id, tenant_id) VALUES (DEFAULT, 700, $1), (DEFAULT, 701, 6), (DEFAULT, 702, 7) ON CONFLICT (tenant_id, id) DO UPDATE SET made = excluded.made

--! then SELECT tenant_id, id FROM items WHERE id > 300
MERGE INTO items i USING (VALUES (3, 301), (5, 302)) AS v(id, n) ON i.tenant_id = i.id AND i.id = 2 WHEN NOT MATCHED THEN INSERT (tenant_id, id) VALUES (v.id, v.n)

--! then SELECT count(*) FROM orders
WITH s AS (SELECT count(*) AS n FROM settings), gone AS (DELETE FROM orders USING s WHERE orders.id <= s.n RETURNING orders.*) SELECT avg(amount), max(n) FROM gone, s

--! then SELECT count(*) FROM orders
WITH s AS (SELECT key FROM settings), gone AS (DELETE FROM orders WHERE EXISTS (SELECT 1 FROM settings WHERE key = 'theme') AND id = 1 RETURNING *) SELECT avg(amount), (SELECT count(*) FROM s) FROM gone

--! then SELECT count(*) FROM orders
WITH m AS (SELECT max(id) AS id FROM orders), gone AS (DELETE FROM orders USING m WHERE orders.id = m.id RETURNING amount) SELECT avg(amount) FROM gone

--! then SELECT count(*), count(DISTINCT made) FROM stamped WHERE id > 950
WITH t AS (SELECT now() AS at), made AS (INSERT INTO stamped SELECT i.tenant_id, 951, t.at FROM items i, t WHERE i.id = 1 RETURNING made) SELECT count(DISTINCT made), avg(extract(epoch FROM made)) > 0 FROM made

--! then SELECT count(*) FROM orders
WITH t AS (SELECT random() AS r), gone AS (DELETE FROM orders USING t WHERE t.r >= 0 AND id = 2 RETURNING amount) SELECT avg(amount) FROM gone
