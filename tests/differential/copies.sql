--! data 101\t1\tx
--! data 102\t1\t\N
--! data 103\t2\ty\\z
--! then SELECT tenant_id, id, status FROM orders WHERE tenant_id > 100
COPY orders (tenant_id, id, status) FROM STDIN

--! data 1,104,paid
--! data 2,105,"a, ""b"""
--! then SELECT tenant_id, id, status FROM orders WHERE tenant_id > 103
COPY orders (id, tenant_id, status) FROM STDIN (FORMAT csv)

--! data i;t;s
--! data 1;106;paid
--! data 2;107;'a;''b'
--! then SELECT tenant_id, id, status FROM orders WHERE tenant_id > 105
COPY orders (id, tenant_id, status) FROM STDIN WITH (FORMAT csv, HEADER, DELIMITER ';', QUOTE '''')

--! data acme|20|a
--! data 07|20|-
--! then SELECT * FROM notes WHERE id = 20
COPY notes FROM STDIN (DELIMITER '|', NULL '-')

--! data 108\t1\tx
--! data 109\tone\tx
--! then SELECT count(*) FROM orders WHERE tenant_id > 107
COPY orders (tenant_id, id, status) FROM STDIN

--! data \N\t1\tx
COPY orders (tenant_id, id, status) FROM STDIN

--! data nine\t1\tx
COPY orders (tenant_id, id, status) FROM STDIN

--! data 110\t1
COPY orders (tenant_id, id, status) FROM STDIN

--! data 1\tx
COPY orders (id, status) FROM STDIN

--! data 1\t1\tx
COPY orders (tenant_id, id, status) FROM STDIN

--! data 111\t1
--! then SELECT count(*) FROM orders
COPY orders (tenant_id, id) FROM STDIN WHERE id > 5

--! data 5\tfive\t5
--! then SELECT * FROM plans
COPY plans FROM STDIN

--! data k\tv
--! then SELECT * FROM settings
COPY settings FROM STDIN

--! simple
COPY orders TO STDOUT

--! simple
COPY orders (tenant_id, id) TO STDOUT (FORMAT csv, HEADER)

--! simple
COPY (SELECT id, name FROM items WHERE tenant_id = 5) TO STDOUT

--! simple
COPY (SELECT tenant_id, id, name FROM items) TO STDOUT (FORMAT csv)

--! simple
COPY (SELECT count(*) FROM items) TO STDOUT

--! simple
COPY (SELECT tenant_id, id FROM items ORDER BY tenant_id, id LIMIT 10) TO STDOUT

--! simple
COPY settings TO STDOUT

--! simple
COPY plans TO STDOUT

COPY (SELECT status, avg(amount), count(DISTINCT item_id) FROM orders GROUP BY status ORDER BY status) TO STDOUT WITH (FORMAT csv, HEADER, FORCE_QUOTE *)

COPY (SELECT tenant_id, id, name, tags, doc, mood, raw, span, code, score FROM items ORDER BY name COLLATE "C", tenant_id, id LIMIT 40) TO STDOUT

COPY (WITH x AS (SELECT max(amount) AS m FROM orders) SELECT o.* FROM orders o, x WHERE amount = m ORDER BY 1, 2) TO STDOUT (FORMAT text, NULL 'nix', DELIMITER '|')

COPY (SELECT count(*) FROM items WHERE qty > 1000 AND id = (SELECT max(id) FROM orders)) TO STDOUT

COPY (SELECT 1 / (count(*) - 192) FROM items WHERE NOT EXISTS (SELECT FROM notes WHERE id > 99)) TO STDOUT
