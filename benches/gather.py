#!/usr/bin/env python3
"""Reads over tenants at a million rows: through pgsluice, and on one Postgres that holds all rows.

usage: benches/gather.py PROXY_URL POSTGRES_URL

PROXY_URL is a database of pgsluice over several shards whose tenant column is tenant_id (`./dev playground`
prints one), POSTGRES_URL an empty database of a plain Postgres. Makes the tables in both, asks each question four
times of each in turn, and prints medians. The answers must be equal. Needs psycopg 3.
"""

import statistics
import sys
import time

import psycopg

TABLES = """
DROP TABLE IF EXISTS cust, line, part;
CREATE TABLE cust (tenant_id int, id int, region int, name text, PRIMARY KEY (tenant_id, id));
CREATE TABLE line (tenant_id int, id int, cust_id int, part int, qty int, price numeric(12,2), ship date, flag text,
    PRIMARY KEY (tenant_id, id));
CREATE TABLE part (tenant_id int, id int, brand text, PRIMARY KEY (tenant_id, id));
"""
ROWS = """
SELECT setseed(0.5);
INSERT INTO cust SELECT t, i, 1 + random() * 24, 'c' || t || '-' || i
    FROM generate_series(1, 200) t, generate_series(1, 500) i;
INSERT INTO line SELECT t, i, 1 + random() * 499, 1 + random() * 1999, 1 + random() * 49, (random() * 1000)::numeric(12,2),
    '1992-01-01'::date + (random() * 2500)::int, (ARRAY['A', 'N', 'R'])[1 + (random() * 2)::int]
    FROM generate_series(1, 200) t, generate_series(1, 5000) i;
INSERT INTO part SELECT 1 + i % 200, i, 'Brand#' || (1 + random() * 24)::int FROM generate_series(1, 2000) i;
"""
QUESTIONS = {
    "sum by group (merge)": "SELECT flag, count(*), sum(qty) FROM line GROUP BY flag ORDER BY 1",
    "avg, HAVING (groups shipped)": "SELECT flag, avg(price), sum(price * qty), count(*) FROM line WHERE ship < '1998-09-01'"
    " GROUP BY flag HAVING count(*) > 10 ORDER BY 1",
    "co-located join": "SELECT c.region, sum(l.price) FROM line l JOIN cust c ON c.tenant_id = l.tenant_id"
    " AND c.id = l.cust_id GROUP BY c.region ORDER BY 1",
    "order of text (100,000 shipped)": "SELECT name FROM cust ORDER BY name, tenant_id, id LIMIT 10",
    "avg of five tenants": "SELECT avg(qty) FROM line WHERE tenant_id IN (1, 2, 3, 4, 5)",
    "join across tenants, a month": "SELECT p.brand, sum(l.qty) FROM line l JOIN part p ON p.id = l.part"
    " WHERE l.ship BETWEEN '1995-01-01' AND '1995-01-31' GROUP BY p.brand ORDER BY 2 DESC, 1 LIMIT 10",
    "join across tenants, all rows": "SELECT p.brand, sum(l.price * l.qty) FROM line l JOIN part p ON p.id = l.part"
    " GROUP BY p.brand ORDER BY 2 DESC, 1 LIMIT 10",
    "count(DISTINCT) of all rows": "SELECT count(DISTINCT cust_id) FROM line",
    "window over a third of the rows": "SELECT * FROM (SELECT tenant_id, id, price, rank() OVER"
    " (ORDER BY price DESC, tenant_id, id) r FROM line WHERE flag = 'R') x WHERE r <= 5 ORDER BY r",
    "IN (SELECT) across tenants": "SELECT count(*) FROM line l WHERE l.cust_id IN"
    " (SELECT id FROM part WHERE brand = 'Brand#7')",
}


def fill(proxy, one):
    for it in (proxy, one):
        it.execute(TABLES)
    one.execute(ROWS)
    for table in ("cust", "line", "part"):
        with one.cursor().copy(f"COPY {table} TO STDOUT") as source:
            with proxy.cursor().copy(f"COPY {table} FROM STDIN") as target:
                for data in source:
                    target.write(data)
    one.execute("ANALYZE")
    for table in ("cust", "line", "part"):
        proxy.execute(f"ANALYZE {table}")


def seconds(connection, sql):
    begin = time.perf_counter()
    rows = connection.execute(sql).fetchall()
    return time.perf_counter() - begin, rows


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    proxy, one = (psycopg.connect(it, autocommit=True) for it in sys.argv[1:])
    fill(proxy, one)
    print("| | pgsluice ms | one Postgres ms | ratio |\n|---|--:|--:|--:|")
    for name, sql in QUESTIONS.items():
        times = ([], [])
        for _ in range(4):
            (a, left), (b, right) = seconds(proxy, sql), seconds(one, sql)
            assert left == right, f"{name}: {left[:3]} and {right[:3]}"
            times[0].append(a)
            times[1].append(b)
        a, b = (statistics.median(it) * 1000 for it in times)
        print(f"| {name} | {a:.0f} | {b:.0f} | {a / b:.2f} |", flush=True)


if __name__ == "__main__":
    main()
