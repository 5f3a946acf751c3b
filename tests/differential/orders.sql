--! ordered
SELECT name, tenant_id, id FROM items ORDER BY name, tenant_id, id

--! ordered
SELECT name, tenant_id, id FROM items ORDER BY name DESC NULLS LAST, tenant_id, id

--! ordered
SELECT name, tenant_id, id FROM items ORDER BY name NULLS FIRST, tenant_id, id

--! ordered
SELECT name, tenant_id, id FROM items ORDER BY name COLLATE "C", tenant_id, id

--! ordered
SELECT name, tenant_id, id FROM items ORDER BY name COLLATE "en_US", tenant_id, id

--! ordered
SELECT tenant_id FROM items ORDER BY tenant_id, id, qty

--! ordered
SELECT id AS x, tenant_id AS y FROM items ORDER BY y, x

--! ordered
SELECT id, tenant_id FROM items ORDER BY 2 DESC, 1

--! ordered
SELECT id AS qty, tenant_id FROM items ORDER BY qty, tenant_id

--! ordered
SELECT -id AS id, tenant_id FROM items ORDER BY tenant_id, id

--! ordered
SELECT tenant_id, id FROM items ORDER BY tenant_id * -1, id + 0

--! ordered
SELECT tenant_id, id FROM items ORDER BY tenant_id USING >, id

--! ordered
SELECT mood, tenant_id, id FROM items ORDER BY mood, tenant_id, id

--! ordered
SELECT price, tenant_id, id FROM items ORDER BY price, tenant_id, id

--! ordered
SELECT score, tenant_id, id FROM items ORDER BY score, tenant_id, id

--! ordered
SELECT at, tenant_id, id FROM items ORDER BY at DESC, tenant_id, id

--! ordered
SELECT day, tenant_id, id FROM items ORDER BY day, tenant_id DESC, id

--! ordered
SELECT flag, tenant_id, id FROM items ORDER BY flag DESC, tenant_id, id

--! ordered
SELECT uid FROM items ORDER BY uid

--! ordered
SELECT ip FROM items ORDER BY ip

--! ordered
SELECT raw, tenant_id, id FROM items ORDER BY raw, tenant_id, id

--! ordered
SELECT code, tenant_id, id FROM items ORDER BY code, tenant_id, id

--! ordered
SELECT span, tenant_id, id FROM items ORDER BY span, tenant_id, id

--! ordered
SELECT doc FROM items ORDER BY doc

--! ordered
SELECT tags FROM items ORDER BY tags

--! ordered
SELECT tenant_id, id FROM items ORDER BY row(tenant_id, id)

--! ordered
SELECT lower(name) l, tenant_id, id FROM items ORDER BY lower(name), tenant_id, id

--! ordered
SELECT tenant_id, id FROM items ORDER BY length(name) DESC NULLS LAST, tenant_id, id

--! ordered
SELECT tenant_id, body FROM notes ORDER BY tenant_id, id

--! ordered
SELECT * FROM orders ORDER BY amount DESC, tenant_id, id

--! ordered
SELECT o.tenant_id, o.id, p.name FROM orders o JOIN plans p USING (plan_id) ORDER BY p.name, o.tenant_id, o.id

SELECT tenant_id FROM items ORDER BY nothing

SELECT tenant_id FROM items ORDER BY 3
