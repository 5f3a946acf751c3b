CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN positive AS int CHECK (value > 0);

CREATE TABLE items (
    tenant_id bigint NOT NULL,
    id bigint NOT NULL,
    name text,
    qty integer,
    price numeric(12, 2),
    score double precision,
    at timestamptz,
    day date,
    flag boolean,
    tags text[],
    doc jsonb,
    mood mood,
    uid uuid,
    ip inet,
    raw bytea,
    code char(4),
    span interval,
    PRIMARY KEY (tenant_id, id)
);
INSERT INTO items SELECT t, i,
    (ARRAY['apple', 'Banana', 'cherry', 'date', NULL, 'élan', 'fig', 'Zoo'])[1 + (t * 3 + i) % 8],
    nullif((t * 7 + i * 13) % 11, 5), ((t * 37 + i * 91) % 1000)::numeric / 100,
    CASE (t + i) % 9 WHEN 0 THEN 'NaN' WHEN 1 THEN '-0' WHEN 2 THEN NULL ELSE (t - i) * 1.5 END,
    CASE WHEN t = 3 AND i = 1 THEN 'infinity' ELSE '2025-01-01 00:00:00+00'::timestamptz + (t * 1000 + i) * interval '1 minute' END,
    '2025-01-01'::date + ((t * i) % 50)::int, (t + i) % 3 = 0, ARRAY['a' || i, 'b' || t],
    jsonb_build_object('t', t, 'i', i), (ARRAY['sad', 'ok', 'happy']::mood[])[1 + (t + i) % 3],
    md5(t || '-' || i)::uuid, ('10.0.' || t || '.' || i)::inet, decode(md5(i::text), 'hex'),
    'c' || i, (i * t) * interval '1 hour'
    FROM generate_series(1, 24) t, generate_series(1, 8) i;

CREATE TABLE orders (
    tenant_id bigint NOT NULL,
    id bigint NOT NULL,
    item_id bigint,
    plan_id integer,
    amount numeric,
    status text NOT NULL DEFAULT 'new',
    PRIMARY KEY (tenant_id, id)
);
INSERT INTO orders SELECT t, o, 1 + (t + o) % 10, 1 + o % 3, (t * 17 + o * 29) % 500 + 0.25,
    (ARRAY['new', 'paid', 'sent'])[1 + (t * o) % 3]
    FROM generate_series(1, 24) t, generate_series(1, 5) o;

CREATE TABLE notes (tenant_id text NOT NULL, id integer NOT NULL, body varchar(20), PRIMARY KEY (tenant_id, id));
INSERT INTO notes SELECT (ARRAY['acme', 'Bits', 'c-corp', '07', 'O''Neil', 'ümlaut', 'x y'])[t], n, 'note ' || n
    FROM generate_series(1, 7) t, generate_series(1, 3) n;

CREATE TABLE devices (tenant_id uuid NOT NULL, id integer NOT NULL, label text, PRIMARY KEY (tenant_id, id));
INSERT INTO devices SELECT md5(t::text)::uuid, d, 'device ' || d
    FROM generate_series(1, 10) t, generate_series(1, 2) d;

CREATE TABLE plans (plan_id integer PRIMARY KEY, name text NOT NULL, price integer);
INSERT INTO plans VALUES (1, 'free', 0), (2, 'team', 49), (3, 'business', 199);
CREATE TABLE countries (code text PRIMARY KEY, name text NOT NULL);
INSERT INTO countries VALUES ('DE', 'Germany'), ('FR', 'France'), ('JP', 'Japan');
CREATE TABLE settings (key text PRIMARY KEY, value text);
INSERT INTO settings VALUES ('theme', 'light'), ('mail', 'on');

CREATE VIEW big_items AS SELECT tenant_id, id, name, qty FROM items WHERE qty > 5;
CREATE VIEW item_list AS SELECT tenant_id, id, qty FROM items ORDER BY qty DESC NULLS LAST, tenant_id, id;
CREATE FUNCTION twice(a integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT a * 2';
CREATE FUNCTION count_items() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM items';
CREATE TABLE stamped (tenant_id bigint NOT NULL, id bigint NOT NULL, made timestamptz DEFAULT now(), PRIMARY KEY (tenant_id, id));
