"""Memory of many idle clients, and very many clients over few servers."""

import random
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

from .processes import fail, free_port, pgbench, resident_kb, say
from .targets import GUEST, Targets
from .wire import Client, query, rows


def point(scale):
    return f"SELECT abalance FROM pgbench_accounts WHERE aid = {random.randint(1, scale * 100_000)}"


def guests(port, database, count):
    """Clients that log in by SCRAM, some at a time."""
    log_in = lambda _: Client(port, user=GUEST, password=GUEST, database=database, timeout=120)
    with ThreadPoolExecutor(32) as threads:
        return list(threads.map(log_in, range(count)))


def idle(site: Targets, target, count, scale):
    """Resident KB: before, with that many clients that logged in by SCRAM and ran a query, 10 s
    after they have left; and KB per client."""
    pid = site.pids[target]
    before = resident_kb(pid)
    clients = guests(site.ports[target], site.database(target), count)
    try:
        for some in (clients[at:at + 32] for at in range(0, count, 32)):
            for client in some:
                client.send(query(point(scale)))
            for client in some:
                rows(client.answer())
        time.sleep(1)
        during = resident_kb(pid)
    finally:
        for client in clients:
            client.close()
    time.sleep(10)
    figures = {"before": before, "during": during, "after": resident_kb(pid),
               "each": (during - before) / count}
    say(f"{count} idle clients of {target}: {figures['each']:.2f} KB each")
    return figures


def crowd(site: Targets, count, servers, scale, queries=3):
    """Many clients of a pgsluice with few servers, all of them asking at the same time."""
    port = free_port()
    process = site.proxy("crowd", site.pgsluice_config(port, servers), port=port)
    begin = time.time()
    clients = guests(port, "app", count)
    try:
        logged_in = time.time()
        wrong = 0
        for _ in range(queries):
            for client in clients:
                client.send(query(point(scale)))
            for client in clients:
                wrong += rows(client.answer()) != [["0"]]
        end = time.time()
        console = Client(port, database="pgsluice")
        open_servers = len(console.rows("SHOW SERVERS"))
        console.close()
        return {
            "logins": count / (logged_in - begin), "wrong": wrong, "servers": open_servers,
            "queries": count * queries / (end - logged_in), "resident": resident_kb(process.pid),
        }
    finally:
        for client in clients:
            client.close()
        site.end(process)


# An identifier is part of what a plan and a prepared statement are kept by.
DISTINCT = """\\set aid random(1, {rows})
\\set name random(1, 1000000000)
SELECT abalance AS c:name FROM pgbench_accounts WHERE aid = :aid;
"""


def growth(site: Targets, count, scale):
    """(what, resident KB after a twentieth, at the end) of many transactions, and of as many
    statements that differ."""
    script = site.write("distinct.sql", DISTINCT.format(rows=scale * 100_000))
    for what, arguments in (("prepared transactions", ["-S", "-M", "prepared"]),
                            ("distinct statements", ["-f", script])):
        sizes = []
        for part in (count // 20, count):
            done = subprocess.run([pgbench(), "-n", "-c", "16", "-t", str(part // 16), *arguments,
                                   "-h", "127.0.0.1", "-p", str(site.ports["pgsluice"]), "-U", "app",
                                   "app"], capture_output=True, text=True)
            if done.returncode != 0:
                fail(f"pgbench {' '.join(arguments)}: {done.stderr}")
            sizes.append(resident_kb(site.pids["pgsluice"]))
        say(f"{count} {what}: {sizes[0]} to {sizes[1]} KB")
        yield what, *sizes
