"""Figures as tables of Markdown."""

from .load import Runs
from .targets import TARGETS

SUM = lambda it: it["proxy"] + it["server"]
# (column, what of a run, against which target)
RATIOS = (
    ("proxy CPU", lambda it: it["proxy"], "PgBouncer"),
    ("proxy + Postgres CPU", SUM, "PgBouncer"),
    ("the same, against direct", SUM, "direct"),
    ("tx/s", lambda it: it["tps"], "PgBouncer"),
    ("p99", lambda it: it["p99"], "PgBouncer"),
)
MORE_IS_BETTER = "tx/s"


def header(*columns, left=1):
    marks = ["---"] * left + ["--:"] * (len(columns) - left)
    return [line(columns), "|" + "|".join(marks) + "|"]


def line(cells):
    return "| " + " | ".join(str(it) for it in cells) + " |"


def figures(site, runs: Runs, cases):
    lines = header("what", "protocol", "clients", "target", "proxy CPU µs/tx", "Postgres CPU µs/tx",
                   "sum µs/tx", "tx/s", "of direct", "p50 µs", "p99 µs", left=2)
    for case in cases:
        for target in TARGETS:
            of = lambda name: runs.median(case, target, lambda it: it[name])
            star = "*" if site.database(target, case.mode) == "app_session" else ""
            proxy = "" if target == "direct" else f"{of('proxy'):.1f}"
            share = of("tps") / runs.median(case, "direct", lambda it: it["tps"])
            lines.append(line([case.name, case.mode, case.clients, target + star, proxy,
                               f"{of('server'):.1f}", f"{runs.median(case, target, SUM):.1f}",
                               f"{of('tps'):.0f}", f"{share:.0%}", f"{of('p50'):.0f}",
                               f"{of('p99'):.0f}"]))
    return lines


def ratios(runs: Runs, cases):
    """pgsluice against others; bold: a goal that is missed."""
    lines = header("what", "protocol", "clients", *(it[0] for it in RATIOS), left=2)
    for case in cases:
        goals = dict(case.goals)
        cells = [case.name, case.mode, case.clients]
        for name, of, other in RATIOS:
            value = runs.ratio(case, "pgsluice", other, of)
            goal = goals.get(name, value)
            missed = value < goal if name == MORE_IS_BETTER else value > goal
            shown = f"{value:.2f}"
            cells.append(f"**{shown}** (goal {goal:.2f})" if missed else shown)
        lines.append(line(cells))
    return lines
