SELECT abalance FROM pgbench_accounts WHERE aid = 12345;
\g
SELECT 1
\g
select 1+1
\g
SELECT -5, - 5, +5, - -5, 5--3
\g
SELECT 5 - -3
\g
SELECT a-1, a - 1, a -1, a- 1
\g
SELECT 'a' 'b'
\g
SELECT 'a'
'b'
\g
SELECT 'a' -- first
   -- second

  'b' AS x
\g
SELECT 'a' /* no */
'b'
\g
SELECT E'a\'b', e'\\', E'\x41\u0041\U00000041\101', E'a''b'
\g
SELECT E'a\'
' '
\g
SELECT E'a'
'\'b'
\g
SELECT B'101', b'', X'1F', x'abCD'
\g
SELECT B'1'
'0', X'1'
'f'
\g
SELECT N'national', n'x' , N 'x'
\g
SELECT U&'d\0061t\+000061', U&'d!0061t' UESCAPE '!', u&'x'
\g
SELECT U&"d\0061t", u&"d!0061" UESCAPE '!', U & 'x', u &"x"
\g
SELECT "a", "a""b", "A B"."c", """"
\g
SELECT $$dollar$$, $a$x$b$ $$y$a$, $_1$z$_1$, $é$ü$é$
\g
SELECT $a$b$a$a$, $$ $ $$, $$'$$
\g
SELECT $1, $2::int, $10+$11, a$1, a$b$c, $1$1
\g
SELECT 1.5, .5, 5., 1e10, 1.5e-3, .5E+2, 5.e1, 1..2, 1...5
\g
SELECT 2147483647, 2147483648, 9223372036854775807, 9223372036854775808, 0000000000005
\g
SELECT 1_000, 1_000.000_1, 1e1_0, 0x1F, 0xFF_ff, 0o17, 0b1_01, 0X1f, 0B1, 0O7
\g
SELECT arr[1:2], arr[1], arr[:2], arr[1:], (1)
\g
SELECT a::text, a :: int, x := 1, f(a => 1), f(a:=1)
\g
SELECT a<b, a<=b, a>=b, a<>b, a!=b, a=b, a<-b, a=-b, a>-b, a<=-1, a>=-1
\g
SELECT a->'b', a->>'b', a#>'{b}', a#>>'{b}', a@>b, a<@b, a||b, a&&b, a~b, a!~*b, a~~*b
\g
SELECT @-5, @ -5, |/25, ||/27, !!5, a|-b, a&-b, a#-b, a%-b, a^-b, a*-b, a/-b, a~-b
\g
SELECT a+-b, a--b
, a+ -b, a-+b, a*+b, a<->b, a<#>b, a<=>b
\g
SELECT a/*c*/+/*d*/b, a+/*c*/b, a@/*c*/-b, a*/*x*/b
\g
SELECT a@--c
b
\g
SELECT /* a /* nested */ b */ 1 /**/ , /***/ 2, /* * / */ 3, /*/ */ 4
\g
SELECT /*/**/*/ 1, /* // */ 2, /*-- */ 3, /* ' */ 4, /* " $$ */ 5
\g
-- leading
SELECT 1 -- trailing
\g
-- only a comment
\g
/* only */
\g
--
\g

\g
;
\g
;;SELECT 1;;
\g
SELECT 1; SELECT 2
\g
(SELECT 1) UNION ALL (SELECT 2)
\g
SELECT * FROM "t" WHERE "a" = 'x' AND b IN (1,2,3) ORDER BY c DESC LIMIT 10 OFFSET 20
\g
SELECT "public"."User"."id", "public"."User"."email" FROM "public"."User" WHERE ("public"."User"."tenantId" = $1 AND 1=1) LIMIT $2 OFFSET $3
\g
SELECT t0."id" AS t0_c0, t0."name" AS t0_c1 FROM "orders" t0 LEFT JOIN "items" t1 ON t0."id" = t1."order_id" WHERE t0."tenant_id" = $1
\g
INSERT INTO t (a, b) VALUES (1, 'x'), (2, 'y'), (DEFAULT, NULL) ON CONFLICT (a) DO UPDATE SET b = excluded.b RETURNING *
\g
INSERT INTO t VALUES (-1, +1, 1.5e3, 'it''s', E'\n', TRUE, NULL, now())
\g
UPDATE t SET a = a + 1, b = b || 'x' WHERE id = 5 AND tenant_id = 'acme'
\g
UPDATE t SET j = jsonb_set(j, '{a,b}', '1') WHERE j @> '{"a": 1}' AND j ? 'k' AND j ?| array['a'] AND j ?& array['b']
\g
DELETE FROM t USING u WHERE t.id = u.id AND u.x <> ALL ($1::int[])
\g
MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN UPDATE SET v = s.v WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.v)
\g
WITH RECURSIVE r(n) AS (VALUES (1) UNION ALL SELECT n+1 FROM r WHERE n < 100) SELECT sum(n) FROM r
\g
WITH a AS MATERIALIZED (SELECT 1), b AS NOT MATERIALIZED (SELECT 2) SELECT * FROM a, b
\g
VALUES (1, 'one'), (2, 'two'), (3, 'three')
\g
TABLE foo
\g
SELECT count(*) FILTER (WHERE a > 5), array_agg(b ORDER BY c) FROM t GROUP BY ROLLUP (a, b), GROUPING SETS ((a), ())
\g
SELECT sum(x) OVER (PARTITION BY a ORDER BY b ROWS BETWEEN 5 PRECEDING AND CURRENT ROW) FROM t
\g
SELECT rank() OVER w FROM t WINDOW w AS (ORDER BY a RANGE BETWEEN INTERVAL '1 day' PRECEDING AND UNBOUNDED FOLLOWING)
\g
SELECT * FROM t TABLESAMPLE BERNOULLI (10.5) REPEATABLE (42)
\g
SELECT * FROM generate_series(1, 10) WITH ORDINALITY AS g(v, n)
\g
SELECT a.* FROM t a JOIN LATERAL (SELECT * FROM u WHERE u.id = a.id LIMIT 3) b ON true
\g
SELECT CASE WHEN a = 1 THEN 'one' WHEN a = 2 THEN 'two' ELSE 'many' END FROM t
\g
SELECT CASE a WHEN 1 THEN 2 END
\g
SELECT date '2020-01-01', timestamp '2020-01-01 00:00:00', interval '1' year, interval(3) '1.5s', int8 '5'
\g
SELECT '5'::int8, CAST('5' AS numeric(10,2)), 'x'::varchar(5), 'a' COLLATE "C"
\g
SELECT extract(year from now()), now() AT TIME ZONE 'UTC', overlay('abc' placing 'x' from 2 for 1)
\g
SELECT position('a' in 'abc'), substring('abc' from 1 for 2), trim(both 'x' from 'xax')
\g
SELECT a IS NULL, a IS NOT DISTINCT FROM b, a BETWEEN 1 AND 2, a NOT LIKE 'x%' ESCAPE '!', a SIMILAR TO '(a|b)%'
\g
SELECT ARRAY[1,2,3], ARRAY[[1,2],[3,4]], '{1,2}'::int[], array(select 1), row(1,2), (1,2)
\g
SELECT (a).b, (a).*, (f(x)).c[1].d, t.*
\g
SELECT DISTINCT ON (a, b) a, b, c FROM t ORDER BY 1, 2 DESC NULLS LAST, c USING >
\g
SELECT * FROM t FOR UPDATE OF t SKIP LOCKED
\g
SELECT * FROM t FETCH FIRST 5 ROWS WITH TIES
\g
SELECT * FROM t1 NATURAL JOIN t2 CROSS JOIN t3 FULL OUTER JOIN t4 USING (id) AS j
\g
SELECT 1 INTERSECT SELECT 2 EXCEPT ALL SELECT 3
\g
SELECT OPERATOR(pg_catalog.+) 1, 1 OPERATOR(pg_catalog.*) 2
\g
SELECT xmlelement(name foo, xmlattributes(a as b), 'text'), xmlparse(document '<a/>')
\g
SELECT json_object('a': 1, 'b' VALUE 2), json_array(1, 2 NULL ON NULL), j IS JSON OBJECT
\g
SELECT JSON_VALUE(j, '$.a' RETURNING int DEFAULT 5 ON ERROR), JSON_QUERY(j, 'lax $.b[*]' WITH WRAPPER)
\g
SELECT jt.* FROM JSON_TABLE('[{"a":1}]', '$[*]' COLUMNS (id FOR ORDINALITY, a int PATH '$.a')) AS jt
\g
SELECT pg_catalog.set_config('search_path', '', false)
\g
SET search_path TO a, "B", 'c'
\g
SET TIME ZONE 'Europe/Berlin'
\g
SET LOCAL statement_timeout = '5s'
\g
SHOW ALL
\g
RESET ALL
\g
BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY
\g
COMMIT AND CHAIN
\g
SAVEPOINT "a b"
\g
PREPARE p (int, text) AS SELECT * FROM t WHERE a = $1 AND b = $2
\g
EXECUTE p (1, 'x')
\g
DEALLOCATE ALL
\g
DECLARE c NO SCROLL CURSOR WITH HOLD FOR SELECT * FROM t
\g
FETCH FORWARD 10 FROM c
\g
COPY t (a, b) FROM STDIN WITH (FORMAT csv, DELIMITER ';', NULL '', QUOTE '"', HEADER)
\g
COPY (SELECT * FROM t WHERE a > 5) TO STDOUT WITH CSV HEADER DELIMITER E'\t'
\g
CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY, a varchar(10) DEFAULT 'x', b numeric(10,2) CHECK (b > 0), PRIMARY KEY (id))
\g
CREATE TABLE p PARTITION OF t FOR VALUES FROM (1) TO (10)
\g
CREATE UNIQUE INDEX CONCURRENTLY i ON t USING btree (lower(a) text_pattern_ops, b DESC) INCLUDE (c) WHERE d IS NULL
\g
CREATE FUNCTION f(a int, b text DEFAULT 'x') RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT a + length(b) $$
\g
CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
  NEW.a := NEW.a || $q$it's$q$; -- comment
  RETURN NEW;
END;
$body$
\g
CREATE FUNCTION h(a int) RETURNS int BEGIN ATOMIC SELECT a; SELECT a + 1; END
\g
CREATE OPERATOR === (LEFTARG = box, RIGHTARG = box, FUNCTION = area_equal, COMMUTATOR = ===)
\g
CREATE OPERATOR @#@ (rightarg = int8, procedure = factorial)
\g
CREATE VIEW v AS SELECT * FROM t WITH LOCAL CHECK OPTION
\g
CREATE MATERIALIZED VIEW IF NOT EXISTS m AS SELECT 1 WITH NO DATA
\g
CREATE TYPE e AS ENUM ('a', 'b', 'it''s')
\g
CREATE DOMAIN d AS int CHECK (VALUE > 0)
\g
CREATE POLICY p ON t USING (tenant_id = current_setting('app.tenant')::int)
\g
CREATE TRIGGER tr BEFORE INSERT OR UPDATE OF a ON t FOR EACH ROW WHEN (NEW.a IS DISTINCT FROM OLD.a) EXECUTE FUNCTION g()
\g
ALTER TABLE t ADD COLUMN c text NOT NULL DEFAULT '', ALTER b TYPE int USING b::int, DROP CONSTRAINT IF EXISTS x CASCADE
\g
ALTER ROLE r SET work_mem = '64MB'
\g
DROP TABLE IF EXISTS a, b CASCADE
\g
TRUNCATE t RESTART IDENTITY
\g
GRANT SELECT (a, b), INSERT ON t TO PUBLIC WITH GRANT OPTION
\g
COMMENT ON COLUMN t.a IS 'it''s "quoted"'
\g
EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT 1
\g
VACUUM (FULL, VERBOSE) t
\g
ANALYZE t (a, b)
\g
LOCK TABLE t IN ACCESS EXCLUSIVE MODE NOWAIT
\g
LISTEN "chan"
\g
NOTIFY chan, 'payload'
\g
DO $do$ BEGIN RAISE NOTICE 'x %', 5; END $do$
\g
CALL p(1, b => 'x')
\g
CLUSTER t USING i
\g
REINDEX TABLE CONCURRENTLY t
\g
SECURITY LABEL FOR dummy ON TABLE t IS 'classified'
\g
CREATE PUBLICATION pub FOR TABLE t (a, b) WHERE (a > 5) WITH (publish = 'insert')
\g
CREATE SUBSCRIPTION s CONNECTION 'host=localhost' PUBLICATION pub WITH (slot_name = NONE)
\g
CREATE EXTENSION IF NOT EXISTS "uuid-ossp" WITH SCHEMA public
\g
CREATE SEQUENCE s AS bigint INCREMENT BY -1 MINVALUE -100 START -1
\g
SELECT nextval('s'::regclass), currval('"S"'), lastval()
\g
SELECT 'é', "ü", ñandú, 日本語 FROM 表 WHERE 名前 = '山田'
\g
SELECT a AS "select", b "from", c _where FROM "order" AS "group"
\g
SELECT*FROM t WHERE a=1AND b=2
\g
SELECT'a'AS x,"b"AS y,$1AS z
\g
SELECT 'a'::text||'b'::text||E'c'||$$d$$
\g
SELECT a	,b
,c,d
\g
SELECT 1.5.5, 1.5.a, a.1, t.1
\g
SELECT 1.e, 1e, 1e+, 1.5e-, 12ab, 0x, 0xg, 0b2, 0o8, 1_, 1__0, 1_e, _1
\g
SELECT 0, 00, 0., 0.0, 0e0, 0e, 0e+1, 0.e5, 0_1, 0_, 0.5x
\g
SELECT .1.2, ..1, ...1, 1.., 1.2..3, 5.e+1x
\g
SELECT $0, $, $$, $a, $1a, $1_0, $99999999999
\g
SELECT a ? b, a ?| b, ?a, ??, a?-b, a?b
\g
SELECT a <<= b, a >>= b, a <<| b, a |>> b, a &< b, a &> b, a -|- b, a ~= b, a ^@ b, a *<> b
\g
SELECT +-+1, -+-1, +-/*c*/+1, *-1, /-1, <-1, >-1, =-1, =+-+1, @=+-+1
\g
SELECT `a`, a`b, ``-, \a, {x}, [1], a[1][2:3]
\g
SELECT '', '''', '''''', '''a''', 'a''', '''a'
\g
SELECT '\', 'a\'||'b', E'\\', E'\'''
\g
SELECT 'unterminated
\g
SELECT E'unterminated\'
\g
SELECT "unterminated
\g
SELECT U&'unterminated
\g
SELECT $$unterminated
\g
SELECT $a$unterminated$b$
\g
SELECT /* unterminated /* */
\g
SELECT B'unterminated
\g
SELECT 'a' --
'b' --
-- x
'c'
\g
SELECT 'a'
-- comment only
\g
SELECT 'a'
-'b'
\g
SELECT 'a'
E'b'
\g
SELECT U&'a'
'b' UESCAPE '!'
\g
SELECT $$a$$
'b'
\g
SELECT 'a'
$$b$$
\g
SELECT ''
''
''''
\g
SELECT "a"
"b"
\g
SELECT E'a' 'b' B'1' X'f' N'n'
\g
SELECT e, b, x, n, u, E , B, ex'a', u&a, U&1, bx'1'
\g
SELECT u&'a'u&"b"u&c
\g
SELECT 1/2, 1*2, 1%2, 1^2, 1<2, 1>2, 1=2, 1+2, 1-2
\g
SELECT 1 /2/ 3/*4*/ 5
\g
SELECT (((1))), ((1,2),(3,4)), [1,2]
\g
SELECT a.b.c.d, a . b, a. b, a .b
\g
SELECT f(), f(*), f(DISTINCT a), f(VARIADIC a), f(a, b => c)
\g
SELECT a;b;c
\g
SELECT 1 -- no newline at the end
\g
/* sluice.tenant=acme */ SELECT 1
\g
/*+ SeqScan(t) */ SELECT * FROM t
\g
SELECT /*+ IndexScan(t) */ * FROM t
\g
SELECT * FROM t /*traceparent='00-abc-01',route='%2Fx'*/
\g
--a
--b
SELECT 1
\g
SELECT a @> ARRAY[1]::int[] AND NOT b <@ '{1}' OR c && d
\g
SELECT 'a' LIKE 'b' ESCAPE '\'
\g
SELECT to_char(now(), 'YYYY-MM-DD"T"HH24:MI:SS'), format('%I %L %s', 'a', 'b', 'c')
\g
SELECT regexp_replace('a.b', '\.', E'\\.', 'g') FROM t WHERE a ~ '^\d+$' AND b !~* E'\\s'
\g
SELECT * FROM t WHERE (a, b) IN ((1, 2), (3, 4)) AND c = ANY ('{1,2,3}'::int[]) AND EXISTS (SELECT 1)
\g
SELECT * FROM t WHERE ts >= '2024-01-01' AND ts < '2024-02-01'::timestamptz - '1 day'::interval
\g
SELECT id, -id, +id, id - 1, id -1, id-1, id - -1 FROM t WHERE x=-1 AND y<-1 AND z>=-1
\g
SELECT "a" FROM "b" WHERE "c"=E'\'' AND "d"='\' AND "e"=$$\$$
\g
INSERT INTO logs SELECT g, 'msg ' || g, now() - g * '1 min'::interval FROM generate_series(1, 1000) g
\g
SELECT 1 WHERE 'a'='a'AND'b'='b'
\g
SELECT null, true, false, current_user, current_date, localtimestamp(3)
\g
UPDATE accounts SET balance = balance - 100.00 WHERE id = 1 RETURNING old.balance, new.balance
\g
SELECT a !=-1, a <>-1, a ~-1, a ||-1, a %-1, a %+1, a #+1, a `-1
\g
SELECT a*-1, a/-1, a**-1, a//-1, a<<-1, a>>-1, a==-1, a<=+-1
\g
SELECT round(1.5), ceil(-0.5), 5!=3, 5<>-3, |/ 25.0, @ -5.0, 2^10, 7%3, 5&3, 5|3, 5#3, ~5, 1<<4, 8>>2
\g
SELECT 'It''s 5 o''clock', E'tab\there', $$it's$$, $q$a "b" 'c'$q$
\g
WITH moved AS (DELETE FROM a WHERE id < $1 RETURNING *) INSERT INTO b SELECT * FROM moved
\g
SELECT count(*), max(id) FROM orders WHERE tenant_id = 7 AND status IN ('new', 'paid') GROUP BY status HAVING count(*) > 1
\g
SELECT o.id, (SELECT sum(i.qty * i.price) FROM items i WHERE i.order_id = o.id) FROM orders o WHERE o.tenant_id = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'
\g
BEGIN; UPDATE t SET a = 1; COMMIT;
