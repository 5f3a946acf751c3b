-- Reads that one server computes over the rows of all shards.

SELECT avg(price), stddev(price), sum(price) / count(*) FROM items

SELECT mood, count(*), avg(qty)::text, max(name), min(code), max(span), max(ip), min(uid::text) FROM items GROUP BY mood

--! text
SELECT mood, tags, span, code, raw, ip, doc, at, score FROM items WHERE mood > 'sad' AND id IN (SELECT max(id) FROM orders)

--! text
SELECT DISTINCT mood FROM items

--! ordered
SELECT DISTINCT mood FROM items ORDER BY mood DESC

--! ordered
SELECT name, id, tenant_id FROM items ORDER BY name COLLATE "C" NULLS FIRST, tenant_id DESC, id LIMIT 20 OFFSET 3

--! ordered
SELECT name, tenant_id, id FROM items ORDER BY name, tenant_id, id

--! ordered
SELECT tenant_id, id FROM items ORDER BY tags, tenant_id, id LIMIT 9

--! ordered
SELECT tenant_id, id FROM items ORDER BY doc DESC, tenant_id, id FETCH FIRST 7 ROWS ONLY

--! ordered
SELECT day, tenant_id, id FROM items ORDER BY day, tenant_id * 100 + id FETCH FIRST 7 ROWS WITH TIES

SELECT status, count(DISTINCT item_id), count(DISTINCT (tenant_id, item_id)), sum(DISTINCT amount) FROM orders GROUP BY status HAVING avg(amount) > 100

SELECT status, plan_id, grouping(status, plan_id), count(*) FROM orders GROUP BY CUBE (status, plan_id)

SELECT plan_id, string_agg(status, ',' ORDER BY tenant_id, id), array_agg(id ORDER BY tenant_id, id) FILTER (WHERE amount > 200) FROM orders GROUP BY ROLLUP (plan_id)

SELECT percentile_cont(0.3) WITHIN GROUP (ORDER BY amount), percentile_disc(0.7) WITHIN GROUP (ORDER BY status), mode() WITHIN GROUP (ORDER BY plan_id) FROM orders

SELECT coalesce(sum(qty), 0) + 1, count(*) > 5, max(qty) - min(qty), bool_or(flag) FROM items WHERE qty > 1000

SELECT sum(CASE WHEN flag THEN 1 ELSE 0 END), sum(CASE status WHEN 'new' THEN amount ELSE 0.5 END) FROM items JOIN orders USING (tenant_id, id)

SELECT i.name, o.status, count(*) FROM items i JOIN orders o ON o.item_id = i.id GROUP BY 1, 2

SELECT i.tenant_id, o.tenant_id, i.id FROM items i JOIN orders o ON o.item_id = i.id AND o.tenant_id = i.tenant_id + 1 WHERE i.qty > 3 AND o.amount BETWEEN 100 AND 300

SELECT i.tenant_id, i.id, o.id FROM items i LEFT JOIN orders o ON o.item_id = i.id AND o.status = 'paid' AND o.plan_id = 2 WHERE i.id < 3 AND (o.id IS NULL OR o.id > 2)

SELECT i.tenant_id, i.id, o.tenant_id, o.id FROM items i FULL JOIN orders o ON o.tenant_id = i.tenant_id + 20 AND o.id = i.id WHERE i.id IS NULL OR o.status IS NULL

SELECT i.id, o.id FROM items i FULL JOIN orders o ON o.id = i.id AND o.tenant_id = i.tenant_id WHERE o.status IS NULL

SELECT p.name, o.id FROM plans p LEFT JOIN orders o ON o.plan_id = p.plan_id AND o.amount > 400 WHERE o.id IS NULL OR o.id = 1

SELECT s.key, count(i.id) FROM settings s LEFT JOIN items i ON i.name > s.key GROUP BY s.key

SELECT s.*, i.id FROM settings s, items i WHERE i.tenant_id IN (3, 4, 5) AND i.qty = length(s.value)

SELECT i.id, s.key FROM items i CROSS JOIN settings s WHERE i.tenant_id = 9 AND i.id < 3

SELECT * FROM items NATURAL JOIN orders WHERE qty IS NOT NULL AND id IN (SELECT id FROM notes)

SELECT tenant_id, id, row_number() OVER (ORDER BY tenant_id, id), sum(amount) OVER (PARTITION BY status ORDER BY tenant_id, id ROWS BETWEEN 2 PRECEDING AND CURRENT ROW), rank() OVER w FROM orders WINDOW w AS (PARTITION BY plan_id ORDER BY amount)

SELECT id FROM items WHERE tenant_id = 3 INTERSECT SELECT id FROM orders WHERE tenant_id = 4 UNION SELECT 99

SELECT status FROM orders EXCEPT ALL SELECT status FROM orders WHERE amount < 100

(SELECT tenant_id, id FROM items ORDER BY qty DESC NULLS LAST, tenant_id, id LIMIT 3) UNION ALL (SELECT tenant_id, id FROM orders ORDER BY amount, tenant_id, id LIMIT 2)

WITH t AS (SELECT status, sum(amount) AS s FROM orders GROUP BY status), u AS MATERIALIZED (SELECT max(s) AS m FROM t) SELECT status FROM t, u WHERE s = m

WITH RECURSIVE up AS (SELECT tenant_id, id, 1 AS depth FROM items WHERE tenant_id = 1 AND id = 1 UNION ALL SELECT i.tenant_id, i.id, depth + 1 FROM items i JOIN up ON i.tenant_id = up.tenant_id + 1 AND i.id = up.id) SELECT max(depth), count(*) FROM up

SELECT (SELECT count(*) FROM items), (SELECT max(amount) FROM orders), EXISTS (SELECT FROM notes WHERE body = 'nothing')

SELECT tenant_id, id FROM orders o WHERE amount > (SELECT avg(amount) FROM orders x WHERE x.status = o.status) AND NOT EXISTS (SELECT FROM items i WHERE i.id = o.item_id AND i.flag)

SELECT tenant_id, id FROM items WHERE (qty, id) IN (SELECT plan_id, id FROM orders) OR id = ALL (SELECT id FROM orders WHERE amount < 0)

SELECT i.id, x.id FROM items i CROSS JOIN LATERAL (SELECT o.id FROM orders o WHERE o.item_id = i.id ORDER BY o.amount, o.tenant_id LIMIT 1) x WHERE i.tenant_id < 4

SELECT count(*) FROM (SELECT * FROM orders ORDER BY amount DESC LIMIT 10) top

SELECT DISTINCT ON (status) status, amount, tenant_id FROM orders ORDER BY status, amount DESC, tenant_id, id

SELECT count(*) FROM big_items b JOIN orders o ON o.id = b.id

SELECT avg(b.qty), count(public.big_items.name) FROM public.big_items, big_items b WHERE big_items.id = b.id

SELECT public.items.id, items.name FROM public.items WHERE public.items.qty = (SELECT max(public.items.qty) FROM public.items)

SELECT count(*) FROM ONLY items WHERE id = (SELECT min(id) FROM ONLY orders)

SELECT x.a, x.b FROM items AS x (a, b) WHERE x.b = (SELECT max(b) FROM items AS y (a, b))

SELECT count(*), count(i.*), count(i) FROM items i WHERE name = (SELECT max(name) FROM items)

SELECT to_jsonb(p), jsonb_agg(o.id ORDER BY o.tenant_id, o.id) FROM plans p JOIN orders o USING (plan_id) GROUP BY p.plan_id, p.name, p.price

SELECT row_to_json(o) FROM orders o WHERE amount = (SELECT max(amount) FROM orders)

--! params numeric 100|text new
SELECT count(*), avg(amount) FROM orders WHERE amount > $1 AND status = $2

--! params int8 3|text paid
SELECT status, avg(amount) FROM orders WHERE tenant_id > $1 GROUP BY status HAVING min(status) <> $2

--! params int8[] {1,2,3,4,5,6}|int4 2
SELECT avg(amount), count(DISTINCT status) FROM orders WHERE tenant_id = ANY ($1) AND plan_id = $2

--! params int8 5|int8 7
SELECT (SELECT max(amount) FROM orders WHERE tenant_id = $1) - (SELECT min(amount) FROM orders WHERE tenant_id = $2), $1 + $2

--! params int4 3|int4 2
SELECT avg(amount) FROM (SELECT amount FROM orders ORDER BY amount, tenant_id, id LIMIT $1 OFFSET $2) x

--! params text null
SELECT count(*) FROM orders WHERE $1 IS NULL AND amount > (SELECT avg(amount) FROM orders)

SELECT count(*) FROM items WHERE at < now() AND day <= current_date AND at > 'epoch'

SELECT count(DISTINCT random()) > 100 FROM items

SELECT random() / (count(*) - 192) FROM items

SELECT twice(qty), count(*) FROM items GROUP BY twice(qty) HAVING count(*) > 1

SELECT twice(a.qty) FROM items a JOIN items b ON b.id = a.qty AND b.tenant_id <> a.tenant_id WHERE a.tenant_id = 2 AND b.tenant_id < 6

SELECT 1 / (count(*) - 192) FROM items WHERE name <> ALL (SELECT 'x' FROM orders)

SELECT no_such_column, avg(qty) FROM items GROUP BY 1

SELECT id, avg(qty) FROM items

SELECT sum(name) FROM items

SELECT i.id FROM items i JOIN no_such_table n ON n.id = i.qty

SELECT avg(qty) FROM items LIMIT -1

SELECT id, name FROM items WHERE tenant_id = 4 AND id = (SELECT count(*) / 24 FROM items) GROUP BY tenant_id, id

SELECT count(*) FROM items GROUP BY ()

SELECT o.id FROM orders o WHERE NULL

SELECT FROM items WHERE qty = (SELECT max(qty) FROM items)

TABLE items ORDER BY doc, tenant_id, id LIMIT 2

SELECT n.tenant_id, d.tenant_id FROM notes n JOIN devices d ON d.id = n.id WHERE n.tenant_id IN ('acme', 'ümlaut') AND d.label LIKE '%1' AND NOT (n.id = 2)

SELECT avg(n.id) FROM notes n WHERE n.tenant_id = ANY (ARRAY['acme', 'Bits', '07']) AND n.body ~ '^note' AND upper(n.tenant_id) <> 'x' AND n.id + 1 > 1 AND coalesce(n.body, '') IS DISTINCT FROM 'x'

SELECT avg(qty) FROM items WHERE flag IS NOT FALSE AND name IS NOT NULL AND name NOT LIKE 'z%' AND qty NOT BETWEEN 3 AND 4 AND qty NOT IN (7, 8) AND (id, qty) < (5, 9) AND doc -> 'i' > '2' AND tags && ARRAY['a1', 'a2'] AND day >= DATE '2025-01-02' AND at < '2026-01-01'::timestamptz AND price::int % 2 = 0 AND name COLLATE "C" < 'd'

SELECT count(*), now() = transaction_timestamp(), now() > 'epoch' FROM items WHERE at < now() - interval '1 hour' AND at > date_trunc('year', now()) - interval '20 years' AND day < current_date

SELECT now() - now(), id FROM items WHERE at > now() - interval '100 years' AND tenant_id = 3

SELECT count(*) FROM items WHERE at < localtimestamp AND day = current_date + 100000 OR at < current_timestamp(0)

--! block
DECLARE c CURSOR FOR SELECT id AS x, count(*) > 0, current_date > '2020-01-01' AS d FROM items GROUP BY 1 ORDER BY 1; FETCH 2 FROM c

COPY (SELECT count(*) FROM items WHERE at < now()) TO STDOUT

--! params int4 100
SELECT count(*) FROM orders o JOIN items i USING (tenant_id, id) WHERE i.at < now() - $1 * interval '1 day' AND o.amount > (SELECT avg(amount) FROM orders)

SELECT status, plan_id, count(*), avg(amount), sum(amount) / count(*), min(status), max(id) + 1 FROM orders GROUP BY 1, 2 HAVING count(*) > 2 AND avg(amount) > 50

--! ordered
SELECT date_trunc('month', i.at) AS month, avg(i.qty), count(*) FILTER (WHERE i.flag), sum(i.price) FILTER (WHERE i.qty > 3) FROM items i GROUP BY month ORDER BY month DESC NULLS LAST LIMIT 3

--! ordered
SELECT upper(name) AS status, avg(qty) FROM items GROUP BY name ORDER BY 1, avg(qty), name

SELECT p.name, o.status, avg(o.amount), min(p.price) FROM orders o JOIN plans p USING (plan_id) GROUP BY p.name, o.status

SELECT o.status, round(avg(i.price), 2) AS r, bool_and(i.flag), every(o.id > 0) FROM orders o JOIN items i ON i.tenant_id = o.tenant_id AND i.id = o.item_id WHERE i.qty > 2 GROUP BY o.status ORDER BY r

SELECT avg(qty), count(*), sum(qty), min(name), max(at), max(mood) FROM items WHERE qty > 1000

SELECT coalesce(avg(amount), 0) + 1, CASE WHEN count(*) > 10 THEN 'many' ELSE 'few' END FROM orders WHERE tenant_id > 3

SELECT mood, code, avg(qty), max(mood) FROM items GROUP BY mood, code HAVING max(name) > 'a'

SELECT avg(qty) AS sluice, status FROM items JOIN orders USING (tenant_id, id) GROUP BY status

SELECT grouping(status), status, avg(amount), count(*) FROM orders GROUP BY ROLLUP (status, plan_id)

SELECT DISTINCT avg(amount) > 100 FROM orders GROUP BY status, tenant_id % 2

SELECT tenant_id % 3, avg(amount) FROM orders GROUP BY tenant_id % 3

SELECT tenant_id % 3 + 1, avg(amount) FROM orders GROUP BY tenant_id % 3

SELECT status AS c, avg(amount) AS status FROM orders GROUP BY c ORDER BY status

SELECT avg(amount) FROM orders WHERE EXISTS (SELECT FROM items i WHERE i.tenant_id = orders.tenant_id AND i.id = orders.item_id AND i.at < now())

SELECT status, avg(amount) FROM orders, settings WHERE key = 'theme' GROUP BY status

SELECT avg(DISTINCT qty), count(DISTINCT qty), avg(qty) FROM items

SELECT sum(avg) FROM (SELECT avg(amount) FROM orders GROUP BY status) x

SELECT avg(qty)::int, avg(qty + 1)::text, avg(id * 1.5), avg(-qty), avg(tenant_id) FROM items

--! params int8 2|text paid
SELECT status, avg(amount + $1) FROM orders WHERE tenant_id > $1 AND status <> $2 GROUP BY status HAVING max(id) > $1

SELECT status, avg(amount) FROM orders WHERE amount IN (1, 2, 3, NULL) GROUP BY status

SELECT count(*), avg(qty) FROM items LIMIT 0

SELECT name, avg(qty) OVER (), count(*) FROM items GROUP BY name, qty

SELECT max(public.items.name) FROM public.items GROUP BY public.items.flag HAVING avg(public.items.qty) > 1

COPY (SELECT status, avg(amount) FROM orders GROUP BY status ORDER BY status) TO STDOUT

--! block
DECLARE c CURSOR FOR SELECT status, avg(amount), count(*) > 1 FROM orders GROUP BY status ORDER BY status; FETCH 2 FROM c

-- Sums whose exactness follows from other things than columns.

--! params numeric 1.5
SELECT status, avg(amount + $1), sum(amount * 2 - '0.5'), count(DISTINCT id) FROM orders GROUP BY status

SELECT sum(n), avg(n * 2), stddev(x), sum(DISTINCT m) FROM items JOIN generate_series(1, 5) n ON n = qty CROSS JOIN (VALUES (1, 2.5), (3, NULL)) v(x, m)

SELECT sum((SELECT count(*) FROM orders o WHERE o.tenant_id = i.id)), avg(coalesce(nullif(qty, 3), 7)) FROM items i

SELECT sum(nullif(qty, 2.5::float8)), count(DISTINCT id) FROM items

SELECT sum(u) FROM unnest(ARRAY[1, 2, NULL]) u, orders WHERE orders.id = u

-- Its rows are not read.
SELECT 1 AS one FROM items WHERE 1 / (qty - qty) = 1 HAVING 1 < 2

SELECT avg(amount), count(DISTINCT i.name) FROM ONLY orders o JOIN ONLY items AS i ON i.id = o.item_id

SELECT json_agg(x) FROM (SELECT status, count(*) AS n FROM orders GROUP BY status ORDER BY status) x

SELECT json_build_object('items', (SELECT json_agg(x) FROM (SELECT tenant_id, id, name FROM items WHERE id = 2 ORDER BY tenant_id) x), 'orders', (SELECT count(*) FROM orders))

WITH x AS (SELECT name, tenant_id FROM items WHERE id < 3 ORDER BY name, tenant_id, id) SELECT string_agg(name, ',') FROM x WHERE tenant_id <> 3

SELECT (SELECT string_agg(n::text, '') FROM generate_series(1, 3) n), count(DISTINCT status) FROM orders

SELECT sum(current_date - day) > 0, sum(at - '2025-01-01') FILTER (WHERE tenant_id <> 3), sum(char_length(name)), sum(mod(id, 3)), sum(jsonb_array_length(to_jsonb(tags))), sum(date_part('month', day)), avg(date_part('year', at)) FILTER (WHERE tenant_id <> 3) FROM items WHERE flag OR id > (SELECT min(id) FROM orders)

SELECT string_agg(name, ',') FROM (SELECT name, status FROM items JOIN orders ON orders.item_id = items.id ORDER BY name) x GROUP BY status

SELECT count(*), avg(qty) FROM items WHERE id IN (SELECT item_id FROM orders WHERE status = 'paid' AND tenant_id < 9) AND tenant_id > 3

SELECT i.tenant_id, i.name FROM items i WHERE i.id IN (SELECT o.id FROM orders o WHERE o.amount > 300 GROUP BY o.id HAVING count(*) > 2) AND i.qty IN (SELECT plan_id FROM orders WHERE tenant_id = 7)

SELECT count(*) FROM items a WHERE EXISTS (SELECT 1 FROM orders b WHERE b.item_id = a.id AND a.tenant_id IN (SELECT c.id FROM orders c)) OR a.flag

SELECT count(*) FROM items a LEFT JOIN orders b ON b.id = a.id AND b.item_id IN (SELECT c.qty FROM items c) WHERE a.tenant_id = b.tenant_id + 1 OR b.id IS NULL

SELECT count(*) FROM items WHERE name IN (SELECT status FROM orders UNION SELECT name FROM items WHERE id = 3)

SELECT count(*) FROM items WHERE id NOT IN (SELECT item_id FROM orders WHERE item_id < 4) AND id IN (SELECT max(id) FROM orders GROUP BY tenant_id)

SELECT count(*) FROM items WHERE code IN (SELECT code FROM items WHERE id = 2) AND price IN (SELECT price FROM items WHERE tenant_id IN (SELECT item_id FROM orders WHERE id = 1))

--! params int8 2
SELECT tenant_id, id FROM items WHERE (id IN (SELECT item_id FROM orders WHERE orders.id = $1 AND created_at_missing IS NULL)) LIMIT 3

--! params int8 2
SELECT tenant_id, id FROM items WHERE id IN (SELECT item_id FROM orders WHERE orders.id = $1) AND at < now() ORDER BY 1, 2 LIMIT 3

SELECT count(*), avg(qty) FROM items WHERE id IN (VALUES (2::bigint), ((SELECT o.item_id FROM orders o WHERE o.id = 3 ORDER BY o.tenant_id LIMIT 1)))

SELECT count(*), avg(qty) FROM items WHERE id IN (SELECT CASE WHEN o.id > 2 THEN o.id ELSE (SELECT min(x.id) FROM orders x) END FROM orders o)

SELECT count(*), avg(qty) FROM items WHERE id IN (WITH w AS (SELECT item_id FROM orders) SELECT 2::bigint UNION SELECT item_id FROM w WHERE item_id < 2)

SELECT count(*), avg(i.qty) FROM items i LEFT JOIN orders o ON o.tenant_id = i.id AND o.id IN (SELECT k.id FROM orders k WHERE k.amount > 400) WHERE o.id IS NULL

SELECT count(*), avg(qty) FROM items WHERE id IN (WITH w AS (SELECT item_id FROM orders WHERE id = 1) VALUES (2::bigint), (3))
