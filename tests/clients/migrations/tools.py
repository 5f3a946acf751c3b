"""The migration tools: `prepare` fetches one, `run` gives the names of the steps that worked."""

import pathlib
import re
import shutil
import subprocess
import sys

from suites import call, fetch

APPS = pathlib.Path(__file__).resolve().parent / "apps"
DJANGO = "5.2.19"
PYTHON = [f"django=={DJANGO}", "psycopg[binary]", "alembic", "sqlalchemy"]
NODE = ["knex", "sequelize@6", "umzug", "typeorm@0.3", "reflect-metadata", "drizzle-orm", "drizzle-kit",
        "node-pg-migrate", "pg@8", "prisma@6.19", "@prisma/client@6.19", "@prisma/adapter-pg@6.19"]


class Tool:
    """A program that prints `ok STEP` for what works; `trusts` is the database's trust_generated_keys."""

    is_script = False

    def __init__(self, name, reference=("plans", "tenants"), trusts=True):
        self.name, self.reference, self.trusts = name, reference, trusts

    def run(self, ready, environment, log):
        log.write_bytes(b"")
        call(self.command(ready), log, timeout=600, env=environment, cwd=self.folder(ready))
        return re.findall(r"^ok (.*)$", log.read_text(errors="replace"), re.M)

    def folder(self, ready):
        return ready.parent


class Python(Tool):
    """A program of ours over a tool from PyPI."""

    def prepare(self, cache):
        home = cache / "python-migrations"
        if not (home / "ready").exists():
            fetch([sys.executable, "-m", "venv", home])
            fetch([home / "bin/pip", "install", "-q", *PYTHON])
            (home / "ready").touch()
        return home / "bin/python"

    def command(self, interpreter):
        return [interpreter, APPS / f"{self.name}_tool.py"]

    def version(self, interpreter):
        asked = f"import importlib.metadata as it; print(it.version({self.name!r}))"
        return subprocess.run([interpreter, "-c", asked], capture_output=True, text=True).stdout.strip()

    def folder(self, ready):
        return APPS


class Node(Tool):
    """A program of ours over a tool from npm."""

    def __init__(self, name, package=None, **options):
        super().__init__(name, **options)
        self.package = package or name

    def prepare(self, cache):
        folder = cache / "node-migrations"
        if not (folder / "ready").exists():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "package.json").write_text('{"private": true}\n')
            fetch(["npm", "install", "--no-audit", "--no-fund", "--no-save", *NODE], cwd=folder)
            (folder / "ready").touch()
        for file in APPS.glob("*.mjs"):
            shutil.copy(file, folder)
        return folder / f"{self.name}.mjs"

    def command(self, file):
        return ["node", file]

    def version(self, file):
        text = (file.parent / "node_modules" / self.package / "package.json").read_text()
        return re.search(r'"version": "(.*?)"', text)[1]


class Script(Tool):
    """SQL that a tool sends which cannot be had or needs more than a script; its output must be the same."""

    is_script = True

    def prepare(self, cache):
        return APPS.parent / "scripts" / f"{self.name.removesuffix('_sql')}.sql"

    def command(self, file):
        return ["psql", "-X", "-a", "-f", file]

    def version(self, file):
        return "script"

    def run(self, ready, environment, log):
        super().run(ready, environment, log)
        # Each line as often as it comes: where a notice is amid the lines depends on buffers.
        seen, told = {}, []
        for line in log.read_text(errors="replace").splitlines():
            seen[line] = seen.get(line, 0) + 1
            told.append(f"{line!r}, time {seen[line]}")
        return told


TOOLS = {
    "django": Python("django", reference=("shop_plan", "shop_tenant")),
    "alembic": Python("alembic"),
    "knex": Node("knex"),
    "sequelize": Node("sequelize"),
    "typeorm": Node("typeorm"),
    "drizzle": Node("drizzle", "drizzle-kit"),
    "prisma": Node("prisma"),
    "pgmigrate": Node("pgmigrate", "node-pg-migrate"),
    "flyway": Script("flyway"),
    "liquibase": Script("liquibase"),
    "golang": Script("golang"),
    "rails": Script("rails"),
    "sqlx": Script("sqlx"),
    "prisma_sql": Script("prisma_sql"),
}
