"""Memory of many idle clients, and very many clients over few servers."""

import os
import random
import time

from .processes import free_port, resident_kb, say
from .targets import GUEST, Targets
from .wire import Client, query, rows


def point(scale):
    return f"SELECT abalance FROM pgbench_accounts WHERE aid = {random.randint(1, scale * 100_000)}"


def idle(site: Targets, target, count, scale):
    """Resident KB: before, with that many clients that logged in by SCRAM and ran a query, 10 s
    after they have left; and KB per client."""
    pid, clients = site.pids[target], []
    before = resident_kb(pid)
    try:
        for _ in range(count):
            clients.append(Client(site.ports[target], user=GUEST, password=GUEST,
                                  database=site.database(target)))
            clients[-1].rows(point(scale))
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
    clients, begin = [], time.time()
    try:
        for _ in range(count):
            clients.append(Client(port, user=GUEST, password=GUEST, timeout=120))
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
