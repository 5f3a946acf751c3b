-- TPC-H's tables with a tenant each. Most rows that belong together are of one tenant, some are not. The same
-- rows each time: a value is made of the MD5 of its row and column, and favours what the queries ask for.

CREATE FUNCTION pick(seed text, count int) RETURNS int LANGUAGE sql IMMUTABLE AS
    $$SELECT ('x' || substr(md5(seed), 1, 7))::bit(28)::int % count$$;
CREATE FUNCTION one_of(seed text, choices text) RETURNS text LANGUAGE sql IMMUTABLE AS
    $$SELECT (string_to_array(choices, '|'))[1 + pick(seed, array_length(string_to_array(choices, '|'), 1))]$$;
-- Every seventh row is another tenant's than the rows it belongs to.
CREATE FUNCTION tenant(kind text, key int) RETURNS int LANGUAGE sql IMMUTABLE AS
    $$SELECT 1 + (key + CASE WHEN pick(kind || key, 7) = 0 THEN 3 ELSE 0 END) % 8$$;

CREATE TABLE region (r_regionkey integer PRIMARY KEY, r_name char(25) NOT NULL, r_comment varchar(152));
INSERT INTO region SELECT ordinality - 1, name, 'about ' || name
    FROM unnest('{AFRICA,AMERICA,ASIA,EUROPE,MIDDLE EAST}'::text[]) WITH ORDINALITY AS it (name, ordinality);

CREATE TABLE nation (
    n_nationkey integer PRIMARY KEY,
    n_name char(25) NOT NULL,
    n_regionkey integer NOT NULL,
    n_comment varchar(152)
);
INSERT INTO nation VALUES
    (0, 'ALGERIA', 0), (1, 'ARGENTINA', 1), (2, 'BRAZIL', 1), (3, 'CANADA', 1), (4, 'EGYPT', 4),
    (5, 'ETHIOPIA', 0), (6, 'FRANCE', 3), (7, 'GERMANY', 3), (8, 'INDIA', 2), (9, 'INDONESIA', 2),
    (10, 'IRAN', 4), (11, 'IRAQ', 4), (12, 'JAPAN', 2), (13, 'JORDAN', 4), (14, 'KENYA', 0),
    (15, 'MOROCCO', 0), (16, 'MOZAMBIQUE', 0), (17, 'PERU', 1), (18, 'CHINA', 2), (19, 'ROMANIA', 3),
    (20, 'SAUDI ARABIA', 4), (21, 'VIETNAM', 2), (22, 'RUSSIA', 3), (23, 'UNITED KINGDOM', 3), (24, 'UNITED STATES', 1);

CREATE TABLE supplier (
    tenant_id integer NOT NULL,
    s_suppkey integer NOT NULL,
    s_name char(25) NOT NULL,
    s_address varchar(40) NOT NULL,
    s_nationkey integer NOT NULL,
    s_phone char(15) NOT NULL,
    s_acctbal numeric(15, 2) NOT NULL,
    s_comment varchar(101) NOT NULL,
    PRIMARY KEY (tenant_id, s_suppkey)
);
INSERT INTO supplier SELECT tenant('s', s), s, 'Supplier#' || lpad(s::text, 9, '0'), md5('address' || s), n,
    10 + n || '-' || 100 + pick('phone' || s, 900) || '-555', pick('balance' || s, 1100000) / 100.0 - 1000,
    CASE pick('comment' || s, 9) WHEN 0 THEN 'slow Customer service Complaints' ELSE 'carefully even' END
    FROM (SELECT s, one_of('nation' || s, '2|3|6|7|7|8|2|18|20|20|3|1|23|24')::int n FROM generate_series(1, 80) s) it;

CREATE TABLE part (
    tenant_id integer NOT NULL,
    p_partkey integer NOT NULL,
    p_name varchar(55) NOT NULL,
    p_mfgr char(25) NOT NULL,
    p_brand char(10) NOT NULL,
    p_type varchar(25) NOT NULL,
    p_size integer NOT NULL,
    p_container char(10) NOT NULL,
    p_retailprice numeric(15, 2) NOT NULL,
    p_comment varchar(23) NOT NULL,
    PRIMARY KEY (tenant_id, p_partkey)
);
INSERT INTO part SELECT tenant('p', p), p,
    one_of('color' || p, 'forest|green|almond|antique|blue') || ' ' || one_of('shade' || p, 'green|linen|navy|peru|sky'),
    'Manufacturer#' || 1 + pick('mfgr' || p, 5), 'Brand#' || one_of('brand' || p, '12|23|34|45|51|12|23|34'),
    one_of('type' || p, 'ECONOMY ANODIZED STEEL|PROMO BURNISHED COPPER|MEDIUM POLISHED TIN|STANDARD PLATED BRASS|LARGE BRUSHED BRASS'),
    one_of('size' || p, '15|15|15|15|1|2|3|4|5|9|14|19|23|36|45|49|10|30')::int,
    one_of('container' || p, 'SM CASE|SM BOX|SM PACK|MED BOX|MED BOX|MED BAG|MED PKG|LG CASE|LG BOX|LG PKG|JUMBO JAR'),
    900 + pick('price' || p, 110000) / 100.0, 'part ' || p
    FROM generate_series(1, 160) p;

CREATE TABLE partsupp (
    tenant_id integer NOT NULL,
    ps_partkey integer NOT NULL,
    ps_suppkey integer NOT NULL,
    ps_availqty integer NOT NULL,
    ps_supplycost numeric(15, 2) NOT NULL,
    ps_comment varchar(199) NOT NULL,
    PRIMARY KEY (tenant_id, ps_partkey, ps_suppkey)
);
-- A part has four suppliers, of its own residue of eight.
INSERT INTO partsupp SELECT tenant('ps' || n, p), p, 8 * ((p / 8 + 3 * n) % 10) + CASE p % 8 WHEN 0 THEN 8 ELSE p % 8 END,
    1 + pick('stock' || p || n, 9999), 1 + pick('cost' || p || n, 99900) / 100.0, 'offer ' || p || ' ' || n
    FROM generate_series(1, 160) p, generate_series(0, 3) n;

CREATE TABLE customer (
    tenant_id integer NOT NULL,
    c_custkey integer NOT NULL,
    c_name varchar(25) NOT NULL,
    c_address varchar(40) NOT NULL,
    c_nationkey integer NOT NULL,
    c_phone char(15) NOT NULL,
    c_acctbal numeric(15, 2) NOT NULL,
    c_mktsegment char(10) NOT NULL,
    c_comment varchar(117) NOT NULL,
    PRIMARY KEY (tenant_id, c_custkey)
);
INSERT INTO customer SELECT tenant('c', c), c, 'Customer#' || lpad(c::text, 9, '0'), md5('home' || c), n,
    10 + n || '-' || 100 + pick('cell' || c, 900) || '-777', pick('purse' || c, 1100000) / 100.0 - 1000,
    one_of('segment' || c, 'BUILDING|AUTOMOBILE|FURNITURE|HOUSEHOLD|MACHINERY'), 'customer ' || c
    FROM (SELECT c, one_of('land' || c, '2|3|6|7|8|12|13|18|19|20|21|24')::int n FROM generate_series(1, 240) c) it;

CREATE TABLE orders (
    tenant_id integer NOT NULL,
    o_orderkey integer NOT NULL,
    o_custkey integer NOT NULL,
    o_orderstatus char(1) NOT NULL,
    o_totalprice numeric(15, 2) NOT NULL,
    o_orderdate date NOT NULL,
    o_orderpriority char(15) NOT NULL,
    o_clerk char(15) NOT NULL,
    o_shippriority integer NOT NULL,
    o_comment varchar(79) NOT NULL,
    PRIMARY KEY (tenant_id, o_orderkey)
);
-- Customers of the first 24 of each 72 order nothing.
INSERT INTO orders SELECT tenant('o', o), o, 8 * (3 + 9 * pick('third' || o, 3) + pick('customer' || o, 6)) + o % 8,
    one_of('status' || o, 'F|O|P|F'), 1000 + pick('total' || o, 40000000) / 100.0,
    '1992-01-01'::date + pick('date' || o, 2400),
    one_of('priority' || o, '1-URGENT|2-HIGH|3-MEDIUM|4-NOT SPECIFIED|5-LOW'), 'Clerk#' || pick('clerk' || o, 30), 0,
    CASE pick('remark' || o, 6) WHEN 0 THEN 'the special packages and requests sleep' ELSE 'order ' || o END
    FROM generate_series(1, 560) o;

CREATE TABLE lineitem (
    tenant_id integer NOT NULL,
    l_orderkey integer NOT NULL,
    l_partkey integer NOT NULL,
    l_suppkey integer NOT NULL,
    l_linenumber integer NOT NULL,
    l_quantity numeric(15, 2) NOT NULL,
    l_extendedprice numeric(15, 2) NOT NULL,
    l_discount numeric(15, 2) NOT NULL,
    l_tax numeric(15, 2) NOT NULL,
    l_returnflag char(1) NOT NULL,
    l_linestatus char(1) NOT NULL,
    l_shipdate date NOT NULL,
    l_commitdate date NOT NULL,
    l_receiptdate date NOT NULL,
    l_shipinstruct char(25) NOT NULL,
    l_shipmode char(10) NOT NULL,
    l_comment varchar(44) NOT NULL,
    PRIMARY KEY (tenant_id, l_orderkey, l_linenumber)
);
CREATE INDEX ON lineitem (l_partkey, l_suppkey);
-- Every fortieth order is a large one.
INSERT INTO lineitem SELECT tenant('l', o + 8 * l), o, p, ps_suppkey, l, quantity, round(quantity * p_retailprice / 10, 2),
    pick('discount' || it, 11) / 100.0, pick('tax' || it, 9) / 100.0, one_of('flag' || it, 'A|N|R'),
    one_of('line' || it, 'F|O'), ship, o_orderdate + 30 + pick('commit' || it, 60), ship + 1 + pick('receipt' || it, 30),
    one_of('instruct' || it, 'DELIVER IN PERSON|COLLECT COD|NONE|TAKE BACK RETURN'),
    one_of('mode' || it, 'AIR|AIR REG|MAIL|SHIP|RAIL|TRUCK|FOB'), 'line ' || it
    FROM (SELECT o_orderkey o, o_orderdate, l, o_orderkey || '-' || l it,
            8 * pick('part' || o_orderkey || '-' || l, 19) + 1 + (o_orderkey + 7) % 8 p,
            CASE WHEN o_orderkey % 40 = 0 THEN 45 ELSE 1 + pick('quantity' || o_orderkey || '-' || l, 50) END quantity,
            o_orderdate + 1 + pick('ship' || o_orderkey || '-' || l, 121) ship
        FROM orders, generate_series(1, 7) l WHERE o_orderkey % 40 = 0 OR l <= 1 + pick('lines' || o_orderkey, 7)) it
    JOIN part ON p_partkey = p JOIN partsupp ON ps_partkey = p AND ps_comment = 'offer ' || p || ' ' || pick('offer' || it, 4);

CREATE VIEW revenue AS
    SELECT l_suppkey supplier_no, sum(l_extendedprice * (1 - l_discount)) total_revenue FROM lineitem
    WHERE l_shipdate >= '1996-01-01'::date AND l_shipdate < '1996-01-01'::date + interval '3 month' GROUP BY l_suppkey;
