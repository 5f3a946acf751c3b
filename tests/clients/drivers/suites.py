"""Where each suite comes from and how it is run: `prepare` fetches it, `run` gives the names of the
tests that passed."""

import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import threading

ASYNCPG = "0.32.0"
DJANGO = "5.2.19"
PG8000 = "1.31.6"
PRISMA = "7.10.0"
PSYCOPG = "3.3.9"
PSYCOPG2 = "2.9.13"
SQLALCHEMY = "2.1.9"
NODE_POSTGRES = "8.16.3"
TOKIO_POSTGRES = "0.7.18"
APPS = pathlib.Path(__file__).resolve().parent / "apps"


def call(command, log=None, timeout=900, **options):
    """Runs a command; what it says goes to the log. Gives its exit code, -1 if it took too long."""
    with open(log or os.devnull, "ab") as out:
        try:
            return subprocess.run(
                [str(it) for it in command], stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, timeout=timeout, **options,
            ).returncode
        except subprocess.TimeoutExpired:
            return -1


def fetch(command, **options):
    subprocess.run([str(it) for it in command], check=True, stdout=subprocess.DEVNULL, **options)


def python(cache):
    """A virtual environment with the Python drivers."""
    home = cache / "python"
    ready = home / f"ready-{ASYNCPG}-{PG8000}-{PSYCOPG}-{DJANGO}-{SQLALCHEMY}"
    if not ready.exists():
        fetch([sys.executable, "-m", "venv", home])
        drivers = [f"asyncpg=={ASYNCPG}", f"pg8000=={PG8000}", f"psycopg[binary,pool]=={PSYCOPG}",
                   f"psycopg2-binary=={PSYCOPG2}"]
        # The last are what the suites of SQLAlchemy, Django and pg8000 need to run.
        tools = ["pytest<9", "pytest-timeout", "distro", "greenlet", "typing_extensions", "asgiref", "sqlparse", "tblib",
                 "pytest-benchmark", "pytest-mock", "pytz"]
        fetch([home / "bin/pip", "install", "-q", *drivers, *tools])
        ready.touch()
    return home / "bin/python"


def sdist(cache, name, version):
    """The unpacked source distribution of a PyPI package."""
    folder = cache / f"{name}-{version}"
    if not folder.exists():
        fetch([python(cache).parent / "pip", "download", "-q", "--no-deps", f"--no-binary={name}",
               f"{name}=={version}", "-d", cache])
        with tarfile.open(cache / f"{name}-{version}.tar.gz") as archive:
            archive.extractall(cache)
    return folder


def debian_source(cache, name, version):
    """The first tarball of a source package, by apt with an index of its own."""
    home = cache / "apt"
    found = lambda: sorted(home.glob(f"{name}_{version}*.orig.tar.*"))
    if not found():
        (home / "lists/partial").mkdir(parents=True, exist_ok=True)
        (home / "archives/partial").mkdir(parents=True, exist_ok=True)
        # From where this machine has its packages: the newest there are.
        sources = "\n".join(it.read_text() for it in pathlib.Path("/etc/apt").rglob("*.sources"))
        mirror = re.search(r"^URIs: (\S+/debian)\s*$", sources, re.M)
        if not mirror:
            raise OSError("no Debian mirror is configured")
        key = "/usr/share/keyrings/debian-archive-keyring.gpg"
        (home / "sources.list").write_text(f"deb-src [signed-by={key}] {mirror[1]} sid main\n")
        options = ["-q", "-o", f"Dir::Etc::SourceList={home}/sources.list", "-o", "Dir::Etc::SourceParts=/dev/null",
                   "-o", f"Dir::State::Lists={home}/lists", "-o", f"Dir::Cache={home}", "-o", "APT::Sandbox::User=root"]
        call(["apt-get", *options, "update"])
        call(["apt-get", *options, "source", "--download-only", name], cwd=home)
    if not found():
        raise OSError(f"Debian's source of {name} {version} could not be had")
    return found()[0]


class Pytest:
    """A suite of pytest, but for the tests that are `left_out` (an expression of `-k`)."""

    def __init__(self, name, version, tests, environment, left_out=""):
        self.name, self.version, self.tests, self.environment = name, version, tests, environment
        self.left_out = left_out

    def prepare(self, cache):
        source, folder = sdist(cache, self.name, self.version), cache / f"run-{self.name}"
        # Apart from the package's own folder, whose modules are not built.
        shutil.rmtree(folder, ignore_errors=True)
        for tests in self.tests:
            shutil.copytree(source / tests, folder / tests)
        return python(cache), folder

    def run(self, ready, environment, port, log, word):
        interpreter, folder = ready
        log.write_bytes(b"")
        environment = {**environment, **self.environment(environment)}
        command = [interpreter, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "--timeout=40", *self.tests]
        wanted = " and ".join(filter(None, [word, self.left_out and f"not ({self.left_out})"]))
        call([*command, *(["-k", wanted] if wanted else [])], log, cwd=folder, env=environment)
        lines = log.read_text(errors="replace").splitlines()
        return {line.split()[1] for line in lines if line.startswith("PASSED ")}


class SqlAlchemy:
    """SQLAlchemy's tests that talk to a database, with one driver."""

    version = SQLALCHEMY

    tests = ["test/dialect/test_suite.py", "test/dialect/postgresql", "test/base", "test/engine", "test/ext", "test/orm",
             "test/sql"]

    def __init__(self, driver):
        self.driver = driver

    def prepare(self, cache):
        return python(cache), sdist(cache, "sqlalchemy", self.version)

    def run(self, ready, environment, port, log, word):
        interpreter, folder = ready
        log.write_bytes(b"")
        url = f"postgresql+{self.driver}://postgres:postgres@127.0.0.1:{port}/alchemy"
        # Without the package's own options: they show what passing tests print, and stop early.
        command = [interpreter, "-m", "pytest", "-o", "addopts=", "-p", "warnings", "-p", "logging", "-q", "-rpfE",
                   "--tb=short", "--timeout=60", "-p", "no:cacheprovider", "--backend-only", "--dburi", url]
        call([*command, *self.tests, *(["-k", word] if word else [])], log, 3600, cwd=folder, env=environment)
        return set(re.findall(r"^PASSED (.*)$", log.read_text(errors="replace"), re.M))


class Django:
    """Django's tests of what is near the database; their runner makes, fills and drops databases."""

    version = DJANGO
    apps = """
        aggregation aggregation_regress annotations async backends base basic bulk_create cache composite_pk constraints
        contenttypes_tests custom_columns custom_lookups custom_managers custom_methods custom_migration_operations custom_pk datatypes
        dates datetimes db_functions db_typecasts db_utils dbshell defer defer_regress delete delete_regress distinct_on_fields empty
        expressions expressions_case expressions_window extra_regress field_defaults field_subclassing filtered_relation fixtures
        fixtures_model_package fixtures_regress force_insert_update foreign_object from_db_value generic_relations
        generic_relations_regress get_earliest_or_latest get_object_or_404 get_or_create indexes inspectdb introspection
        known_related_objects lookup m2m_and_m2o m2m_intermediary m2m_multiple m2m_recursive m2m_regress m2m_signals m2m_through
        m2m_through_regress m2o_recursive managers_regress many_to_many many_to_one many_to_one_null max_lengths migrate_signals
        migration_test_data_persistence migrations migrations2 model_fields model_indexes model_inheritance model_inheritance_regress
        model_regress multiple_database mutually_referential nested_foreign_keys null_fk null_fk_ordering null_queries one_to_one
        or_lookups order_with_respect_to ordering pagination postgres_tests prefetch_related properties proxy_model_inheritance
        proxy_models queries queryset_pickle raw_query reserved_names reverse_lookup save_delete_hooks schema select_for_update
        select_related select_related_onetoone select_related_regress serializers servers sessions_tests signals str string_lookup
        swappable_models test_client_regress test_runner test_utils timezones transaction_hooks transactions unmanaged_models update
        update_only_fields validation xor_lookups
    """.split()

    def prepare(self, cache):
        return python(cache), sdist(cache, "django", self.version)

    def run(self, ready, environment, port, log, word):
        interpreter, folder = ready
        log.write_bytes(b"")
        environment = {**environment, "PYTHONPATH": f"{APPS}:{folder}"}
        command = [interpreter, "runtests.py", "--settings=django_settings", "--parallel=1", "--noinput", "-v", "2"]
        command += [*self.apps, *(["-k", word] if word else [])]
        code = call(command, log, 3600, cwd=folder / "tests", env=environment)
        passed, test = set(), None
        for line in log.read_text(errors="replace").splitlines():
            # The name, perhaps a line of what it is about, and the outcome.
            if named := re.match(r"(test\w*) \(([\w.]+)\)", line):
                test = named[2]
            if test and line.endswith(" ok"):
                passed.add(test)
                test = None
        if code == 0:
            passed.add("the whole run, its databases dropped")
        return passed


class NodePostgres:
    """node-postgres' integration tests, from Debian's source package of it."""

    version = NODE_POSTGRES
    dependencies = {
        "pg-connection-string": "^2.9.1", "pg-pool": "3.10.1", "pg-protocol": "1.10.3", "pg-types": "2.2.0",
        "pgpass": "1.0.5", "async": "2.6.4", "bluebird": "3.7.2", "co": "4.6.0", "pg-copy-streams": "0.3.0",
    }

    def prepare(self, cache):
        folder = cache / f"node-postgres-{self.version}"
        if (folder / "node_modules").exists():
            return folder
        archive = debian_source(cache, "node-postgres", self.version)
        with tarfile.open(archive) as it:
            for member in it:
                match = re.search(r"/?packages/pg/((?:lib|test|script)/.*)", member.name)
                if match and member.isfile():
                    member.name = match[1]
                    it.extract(member, folder)
        names = ", ".join(f'"{name}": "{version}"' for name, version in self.dependencies.items())
        (folder / "package.json").write_text(
            f'{{"name": "pg", "version": "{self.version}", "main": "./lib", "dependencies": {{{names}}}}}\n')
        fetch(["npm", "install", "--no-audit", "--no-fund", "--legacy-peer-deps"], cwd=folder)
        return folder

    def run(self, folder, environment, port, log, word):
        log.write_bytes(b"")
        environment = {**environment, "PGTESTNOSSL": "1"}
        call(["node", "script/create-test-tables.js"], log, cwd=folder, env=environment)
        passed = set()
        for file in sorted((folder / "test/integration").rglob("*-tests.js")):
            name = str(file.relative_to(folder / "test/integration"))
            # These want servers that are set up for them.
            if "sasl" in name or "ssl-" in name or word not in name:
                continue
            begin = log.stat().st_size
            code = call(["node", file], log, timeout=60, cwd=folder, env=environment)
            said = log.read_bytes()[begin:].decode(errors="replace")
            passed |= {f"{name}::{it.strip()}" for it in re.findall(r"^  (.*)✔$", said, re.M)}
            if code == 0:
                passed.add(name)
        return passed


class TokioPostgres:
    """tokio-postgres' tests, which want a server on port 5433: a relay listens there."""

    version = TOKIO_POSTGRES

    def prepare(self, cache):
        folder = cache / f"tokio-postgres-{self.version}"
        if not folder.exists():
            # Vendored sources are whole packages, tests and all.
            crate = cache / "crate"
            (crate / "src").mkdir(parents=True, exist_ok=True)
            (crate / "src/lib.rs").touch()
            (crate / "Cargo.toml").write_text(
                '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2024"\n'
                f'[dependencies]\ntokio-postgres = "={self.version}"\n')
            fetch(["cargo", "vendor", "-q", "vendor"], cwd=crate)
            shutil.copytree(crate / "vendor/tokio-postgres", folder)
        # The test roles of a server that trusts everybody; here everybody has a password.
        for file in (folder / "tests").rglob("*.rs"):
            text = file.read_text()
            file.write_text(re.sub(r"user=postgres(?! password)", "user=postgres password=postgres", text))
        fetch(["cargo", "test", "-q", "--all-features", "--no-run"], cwd=folder)
        return folder

    def run(self, folder, environment, port, log, word):
        log.write_bytes(b"")
        relay = Relay(5433, port)
        try:
            command = ["cargo", "test", "-q", "--all-features", "--test", "test", "--", "--test-threads=4"]
            call([*command, "--format=pretty", *([word] if word else [])], log, timeout=400, cwd=folder, env=environment)
        finally:
            relay.close()
        return set(re.findall(r"^test (\S+) \.\.\. ok$", log.read_text(errors="replace"), re.M))


class Relay:
    """Hands connections on to another port of this machine."""

    def __init__(self, port, target):
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                return
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self.pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def pump(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for it in (source, sink):
            try:
                it.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Script:
    """A small application of our own: it prints `ok NAME` for what works."""

    def __init__(self, version, prepare, command):
        self.version, self.prepare, self.command = version, prepare, command

    def run(self, ready, environment, port, log, word):
        log.write_bytes(b"")
        call([*self.command(ready), *([word] if word else [])], log, timeout=300, env=environment)
        return set(re.findall(r"^ok (.*)$", log.read_text(errors="replace"), re.M))


def node_packages(name, packages):
    """A folder with npm packages beside our script."""

    def prepare(cache):
        folder = cache / f"node-{name}"
        if not (folder / "node_modules").exists():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "package.json").write_text('{"private": true}\n')
            fetch(["npm", "install", "--no-audit", "--no-fund", "--no-save", *packages], cwd=folder)
        shutil.copy(APPS / "lib.mjs", folder)
        shutil.copy(APPS / f"{name}.mjs", folder)
        return folder / f"{name}.mjs"

    return prepare


def node_script(name, version, packages):
    return Script(version, node_packages(name, packages), lambda file: ["node", file])


def prisma(cache):
    """Its client as generated from our schema; the engine that makes tables of it is in no package."""
    packages = ["prisma", "@prisma/client", "@prisma/adapter-pg"]
    script = node_packages("prisma", [*(f"{it}@{PRISMA}" for it in packages), "pg@8"])(cache)
    shutil.copy(APPS / "schema.prisma", script.parent)
    environment = {**os.environ, "PRISMA_SCHEMA_ENGINE_BINARY": "/bin/true", "CHECKPOINT_DISABLE": "1"}
    command = ["node", "node_modules/prisma/build/index.js", "generate", "--schema", "schema.prisma"]
    fetch(command, cwd=script.parent, env=environment)
    return script


def python_script(name, version):
    return Script(version, python, lambda interpreter: [interpreter, APPS / f"{name}.py"])


def psycopg2_environment(environment):
    names = {"DB": "DATABASE", "HOST": "HOST", "PORT": "PORT", "USER": "USER", "PASSWORD": "PASSWORD"}
    return {f"PSYCOPG2_TESTDB_{ours}" if ours != "DB" else "PSYCOPG2_TESTDB": environment[f"PG{theirs}"]
            for ours, theirs in names.items()}


SUITES = {
    "asyncpg": Pytest("asyncpg", ASYNCPG, ["tests"], lambda it: {"PGDATABASE": "bare"}),
    "pg8000": Pytest("pg8000", PG8000, ["test"], lambda it: {}, "benchmark or max_parameters"),
    "psycopg2": Pytest("psycopg2", PSYCOPG2, ["tests"], psycopg2_environment),
    "psycopg": python_script("psycopg_app", PSYCOPG),
    "sqlalchemy": SqlAlchemy("psycopg"),
    "sqlalchemy-asyncpg": SqlAlchemy("asyncpg"),
    "django": Django(),
    "node-postgres": NodePostgres(),
    "tokio-postgres": TokioPostgres(),
    "postgres.js": node_script("postgresjs", "3.4.9", ["postgres@3.4.9"]),
    "knex": node_script("knex", "newest", ["knex", "pg@8", "pg-query-stream"]),
    "kysely": node_script("kysely", "newest", ["kysely", "pg@8"]),
    "drizzle": node_script("drizzle", "newest", ["drizzle-orm", "pg@8"]),
    "sequelize": node_script("sequelize", "newest", ["sequelize@6", "pg@8", "pg-hstore"]),
    "prisma": Script(PRISMA, prisma, lambda file: ["node", file]),
    "typeorm": node_script("typeorm", "newest", ["typeorm", "pg@8", "reflect-metadata"]),
}

# Run only when they are named: each takes many minutes.
LONG = {"sqlalchemy", "sqlalchemy-asyncpg", "django"}
