"""Runs of pgbench and the figures of the window in their middle."""

import glob
import math
import os
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass

from .processes import cpu, fail, pgbench, say
from .targets import TARGETS

# Seconds after the first and before the last transaction that are not measured.
WARM_UP, COOL_DOWN = 0.3, 0.1
# Seconds between two looks at CPU times.
PERIOD = 0.2


@dataclass(frozen=True)
class Case:
    """One line of a table."""

    name: str
    mode: str = "simple"
    clients: int = 16
    # SQL for pgbench; none: -S.
    script: str = ""
    tls: bool = False
    # A connection for each transaction.
    connects: bool = False
    user: str = "app"
    # Ratios to PgBouncer that are wanted, by column; see tables.RATIOS.
    goals: tuple = ()


def run(site, target, case, seconds):
    """CPU in µs per transaction, transactions per second, latencies in µs; on a machine so busy that
    nothing can be told, again and longer."""
    for longer in (1, 3, 9):
        if figures := run_once(site, target, case, seconds * longer):
            return figures
    return fail(f"{seconds * longer} s are too short for {target}, {case}")


def run_once(site, target, case, seconds):
    with tempfile.TemporaryDirectory(dir=site.folder) as folder:
        command = [pgbench(), "-n", "-M", case.mode, "-c", str(case.clients), "-j",
                   str(min(case.clients, 2)), "-T", str(seconds), "-l", "--log-prefix",
                   os.path.join(folder, "log"), "-h", "127.0.0.1", "-p", str(site.ports[target]),
                   "-U", case.user]
        if case.script:
            path = os.path.join(folder, "script.sql")
            with open(path, "w") as file:
                file.write(case.script)
            command += ["-f", path]
        else:
            command.append("-S")
        if case.connects:
            command.append("-C")
        command.append(site.database(target, case.mode))
        environment = {**os.environ, "PGPASSWORD": case.user, "PGGSSENCMODE": "disable",
                       "PGSSLMODE": "require" if case.tls else "disable"}
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   env=environment, text=True)
        pid = site.pids.get(target)
        samples = []
        while process.poll() is None:
            samples.append((time.time(), cpu(pid) if pid else 0, site.server_cpu()))
            time.sleep(PERIOD)
        if process.returncode != 0:
            fail(f"{' '.join(command)} ({target}): {process.stderr.read()}")
        ended = sorted(logged(glob.glob(os.path.join(folder, "log*"))))
    return window(ended, samples)


def window(ended, samples):
    """The figures of what ended between the first and the last usable of the samples."""
    if not ended:
        return None
    first, last = ended[0][0] + WARM_UP, ended[-1][0] - COOL_DOWN
    usable = [it for it in samples if first <= it[0] <= last]
    if len(usable) < 2:
        return None
    (begin, proxy_begin, server_begin), (end, proxy_end, server_end) = usable[0], usable[-1]
    latencies = sorted(latency for at, latency in ended if begin <= at < end)
    if not latencies:
        return None
    count = len(latencies)
    return {
        "proxy": (proxy_end - proxy_begin) / count * 1e6,
        "server": (server_end - server_begin) / count * 1e6,
        "tps": count / (end - begin),
        "p50": latencies[count // 2],
        "p99": latencies[count * 99 // 100],
    }


def logged(paths):
    """(time, latency in µs) of all transactions."""
    for path in paths:
        with open(path) as file:
            for line in file:
                _, _, latency, _, second, micro, *_ = line.split()
                yield int(second) + int(micro) / 1e6, int(latency)


class Runs:
    """Figures of many runs, by case and target, a list with one for each round."""

    def __init__(self, targets=TARGETS):
        self.targets, self.figures = targets, {}

    def take(self, site, cases, rounds, seconds):
        """Runs every case against each target in turn, so that a noisy neighbour meets all alike."""
        for number in range(rounds):
            # Each round begins with another target.
            order = [*self.targets[number % len(self.targets):],
                     *self.targets[:number % len(self.targets)]]
            for case in cases:
                for target in order:
                    figures = run(site, target, case, seconds)
                    self.figures.setdefault((case, target), []).append(figures)
                shown = ", ".join(f"{it} {self.figures[case, it][-1]['tps']:.0f}" for it in self.targets)
                say(f"round {number + 1}: {case.name}, {case.mode}, {case.clients} clients: "
                    f"transactions/s {shown}")

    def median(self, case, target, of):
        return statistics.median(of(it) for it in self.figures[case, target])

    def ratio(self, case, target, other, of):
        """The median of the rounds' ratios; NaN where the other took nothing that can be told."""
        pairs = zip(self.figures[case, target], self.figures[case, other])
        return statistics.median(of(mine) / of(its) if of(its) else math.nan for mine, its in pairs)
