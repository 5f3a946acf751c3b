SELECT count(*) FROM items

SELECT count(*) AS n, count(name), count(DISTINCT name) FROM items

SELECT sum(qty), sum(id), sum(price) FROM items

SELECT sum(score) FROM items WHERE score > 0

SELECT min(qty), max(qty), min(price), max(at), min(day), max(uid::text) FROM items

SELECT min(name), max(name) FROM items

SELECT min(mood), max(mood) FROM items

SELECT max(score), min(score) FROM items

SELECT min(tags), max(span), min(ip) FROM items

SELECT avg(qty), avg(price) FROM items

SELECT round(avg(price), 2) FROM items

SELECT stddev(qty), variance(price) FROM items

SELECT coalesce(sum(qty), 0) FROM items WHERE qty > 1000

SELECT sum(qty), count(*), max(id) FROM items WHERE qty > 1000

SELECT sum(price) / count(*) FROM items

SELECT count(*) > 0 FROM items

SELECT sum(qty)::int, count(*)::int4 FROM items

SELECT count(*) FILTER (WHERE qty > 3), sum(qty) FILTER (WHERE flag) FROM items

SELECT count(*) + 1 AS next FROM items

SELECT bool_and(flag), bool_or(flag), every(flag) FROM items

SELECT string_agg(name, ',' ORDER BY tenant_id, id) FROM items

SELECT string_agg(name, ',') FROM items WHERE tenant_id = 4

SELECT array_agg(id ORDER BY tenant_id, id) FROM items

SELECT jsonb_agg(id ORDER BY id) FROM items WHERE tenant_id = 3

SELECT json_object_agg(id, name) FROM items WHERE tenant_id = 3

SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY qty) FROM items

SELECT mode() WITHIN GROUP (ORDER BY qty) FROM items

SELECT bit_and(qty), bit_or(qty) FROM items

SELECT corr(qty, id) FROM items WHERE tenant_id = 2

SELECT max(tenant_id) - min(tenant_id) FROM items

SELECT sum(DISTINCT qty) FROM items

SELECT max(DISTINCT qty) FROM items

SELECT count(DISTINCT tenant_id) FROM items

SELECT any_value(qty) FROM items

SELECT sum(amount), count(*) FROM orders WHERE tenant_id = 11

--! params int8 3
SELECT count(*), sum(qty) FROM items WHERE qty > $1

--! params int8 3
SELECT count(*), sum(qty) FROM items WHERE tenant_id = $1

SELECT 1 FROM items HAVING count(*) > 10

SELECT 1 AS one FROM items HAVING count(*) > 1000

SELECT 'x' AS label, count(*) FROM items

SELECT now() IS NOT NULL, count(*) FROM items

SELECT sum(qty) FROM items WHERE false

SELECT count(*), sum(qty) FROM items WHERE tenant_id = NULL
