#!/usr/bin/env bash
# PostgreSQL's own regression suite, directly and through pgsluice with one shard; and its reads through
# pgsluice with four.
#
# Usage: run.sh [MODE]...    MODE is direct, session, transaction or shards; all of them if none is named.
#
# The suite is built from the source package of the installed server's minor version (apt), or from
# the unpacked source that PG_SOURCE names. Everything is kept below DIR (/var/tmp/pgsluice-regress);
# PGSLUICE names the binary, TESTS the tests or files to run. Prints what failed, and at the end one line per mode; fails if a test
# that is not listed in `exceptions` fails.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
dir=${DIR:-/var/tmp/pgsluice-regress}
proxy=${PGSLUICE:-$root/target/debug/pgsluice}
bin=${PG_BIN:-$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)}
server_port=${SERVER_PORT:-25432}
proxy_port=${PROXY_PORT:-26432}
# A run that takes longer hangs.
limit=${LIMIT:-900}
as_user=()
[ "$(id -u)" != 0 ] || as_user=(setpriv --reuid=nobody --regid=nogroup --clear-groups env HOME=/tmp)

fail() { printf 'pg_regress: %s\n' "$*" >&2; exit 1; }

# The source of the installed server, unpacked: prints its folder.
source_tree() {
  if [ -n "${PG_SOURCE:-}" ]; then echo "$PG_SOURCE"; return; fi
  local version major package
  version=$("$bin/postgres" --version | sed 's/.*(PostgreSQL) \([0-9.]*\).*/\1/')
  major=${version%%.*}
  if [ ! -f "$dir/src-$version/configure" ]; then
    package=$(dpkg-query -W -f '${Version}' "postgresql-$major")
    mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial" "$dir/src-$version"
    local key=/usr/share/keyrings/debian-archive-keyring.gpg release
    release=$(. /etc/os-release && echo "$VERSION_CODENAME")
    printf 'deb-src [signed-by=%s] http://deb.debian.org/%s main\n' \
      $key "debian $release" $key "debian-security $release-security" >"$dir/apt/sources.list"
    local options=(-q -o "Dir::Etc::SourceList=$dir/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
      -o "Dir::State::Lists=$dir/apt/lists" -o "Dir::Cache=$dir/apt/cache" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update >&2
    (cd "$dir/apt" && apt-get "${options[@]}" source --download-only "postgresql-$major=$package" >&2)
    tar -xjf "$dir/apt/postgresql-${major}_$version.orig.tar.bz2" -C "$dir/src-$version" --strip-components=1
  fi
  echo "$dir/src-$version"
}

build() {
  [ ! -f "$suite/regress.so" ] || return 0
  (
    cd "$source"
    ./configure --without-readline --without-zlib --prefix="$dir/inst"
    for part in src/backend:generated-headers src/common src/port src/interfaces/libpq \
      contrib/spi src/test/regress; do
      make -s -j2 -C "${part%%:*}" $([ "$part" = "${part##*:}" ] || echo "${part##*:}")
    done
  ) >"$dir/build.log" 2>&1 || fail "the suite could not be built, see $dir/build.log"
}

start_server() {
  data=$dir/data
  rm -rf "$data" && mkdir -p "$data" "$dir/run"
  [ "$(id -u)" != 0 ] || chown nobody:nogroup "$data" "$dir/run"
  "${as_user[@]}" "$bin/initdb" -D "$data" -U postgres -A trust --no-locale -E UTF8 --no-sync >"$dir/initdb.log"
  cat >>"$data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
port = $server_port
unix_socket_directories = '$dir/run'
fsync = off
max_prepared_transactions = ${1:-2}
CONF
  "${as_user[@]}" "$bin/pg_ctl" -D "$data" -l "$dir/run/server.log" -w start >/dev/null
  server() { PGOPTIONS="" "$bin/psql" -h 127.0.0.1 -p "$server_port" -U postgres -XqAt "$@"; }
}

stop_server() { "${as_user[@]}" "$bin/pg_ctl" -D "$data" -m immediate stop >/dev/null 2>&1 || true; }

# A fresh database as pg_regress makes it.
fresh_database() {
  server -d postgres -c "CREATE DATABASE regression TEMPLATE template0"
  for setting in "lc_messages TO 'C'" "lc_monetary TO 'C'" "lc_numeric TO 'C'" "lc_time TO 'C'" \
    "bytea_output TO 'hex'" "timezone_abbreviations TO 'Default'"; do
    server -d postgres -c "ALTER DATABASE regression SET $setting"
  done
}

# shards_of MODE: the database's further lines.
shards_of() {
  local url=postgres://postgres:postgres@127.0.0.1:$server_port shard
  if [ "$1" != shards ]; then
    printf '[[database.shard]]\nid = 0\nprimary = "%s/regression"\n' "$url"
    return
  fi
  printf 'tenant_column = "tenant_id"\nhome_shard = 0\n'
  for shard in 0 1 2 3; do
    printf '[[database.shard]]\nid = %s\nrange = [%s, %s]\nprimary = "%s/shard%s"\n' \
      $shard $((shard * 64)) $((shard * 64 + 63)) "$url" $shard
  done
}

start_proxy() {
  mkdir -p "$dir/proxy"
  cat >"$dir/proxy/pgsluice.toml" <<CONF
[listen]
address = "127.0.0.1:$proxy_port"
[pool]
mode = "${1/shards/transaction}"
size = 60
wait_timeout = "30s"
[[user]]
name = "postgres"
password = "postgres"
admin = true
[[database]]
name = "regression"
$(shards_of "$1")
CONF
  # A session of its own for each client: a server that served another one has its libraries loaded,
  # its statistics unsent and its temporary schema made, which guc, stats and temp look at.
  [ "$1" != session ] || sed -i 's/^size = 60/&\nmax_lifetime = "1ms"/' "$dir/proxy/pgsluice.toml"
  "$proxy" run --config "$dir/proxy/pgsluice.toml" >"$dir/proxy/log" 2>&1 &
  proxy_pid=$!
  for _ in $(seq 100); do
    ! grep -q 'is ready for clients' "$dir/proxy/log" || return 0
    sleep 0.1
  done
  fail "the proxy did not start, see $dir/proxy/log"
}

stop_proxy() {
  [ -z "${proxy_pid:-}" ] || kill "$proxy_pid" 2>/dev/null || true
  [ -z "${proxy_pid:-}" ] || wait "$proxy_pid" 2>/dev/null || true
  proxy_pid=
}

# run MODE: the suite; results in DIR/MODE.
run() {
  local mode=$1 port=$server_port out=$dir/$1
  fresh_database
  if [ "$mode" != direct ]; then start_proxy "$mode"; port=$proxy_port; fi
  rm -rf "$out" && mkdir -p "$out"
  [ "$(id -u)" != 0 ] || chown nobody:nogroup "$out"
  # Tests' names are links in the output's folder, where pg_regress finds its inputs.
  local tests=(--schedule="$suite/parallel_schedule")
  [ -z "${TESTS:-}" ] || tests=($TESTS)
  (
    cd "$out"
    PGPASSWORD=postgres "${as_user[@]}" timeout "$limit" "$suite/pg_regress" --inputdir="$suite" \
      --outputdir="$out" --bindir="$bin" --dlpath="$suite" --use-existing --host=127.0.0.1 \
      --port="$port" --user=postgres --dbname=regression --max-concurrent-tests=20 "${tests[@]}"
  ) >"$out/log" 2>&1 || true
  stop_proxy
  sed -nE 's/^(test)? +([a-z0-9_.]+) +\.\.\. +ok .*/\2/p' "$out/log" | sort >"$out/passed"
  sed -nE 's/^(test)? +([a-z0-9_.]+) +\.\.\. +(FAILED|failed).*/\2/p' "$out/log" | sort >"$out/failed"
}

# The reads over four shards, and over one Postgres; results in DIR/shards.
shards() {
  local python=python3 database
  if ! python3 -c 'import psycopg' 2>/dev/null; then
    python=$dir/venv/bin/python
    [ -x "$python" ] || { python3 -m venv "$dir/venv" && "$dir/venv/bin/pip" install -q 'psycopg[binary]'; }
  fi
  for database in one twin0 twin1 twin2 shard0 shard1 shard2 shard3; do
    server -d postgres -c "CREATE DATABASE $database TEMPLATE template0"
  done
  start_proxy shards
  local status=0 target="host=127.0.0.1 user=postgres password=postgres"
  "$python" "$here/shards.py" "$suite" "$dir/shards" "$target port=$server_port" \
    "$target port=$proxy_port" ${TESTS:-} || status=1
  stop_proxy
  [ $status = 0 ] || printf 'shards: answers differ, see %s\n' "$dir/shards/different"
  return $status
}

report() {
  local status=0 mode
  for mode in "$@"; do
    local count unexpected
    count=$(cat "$dir/$mode/passed" "$dir/$mode/failed" | wc -l)
    printf '%-12s %s of %s passed; failed: %s\n' "$mode" "$(wc -l <"$dir/$mode/passed")" \
      "$count" "$(tr '\n' ' ' <"$dir/$mode/failed")"
    unexpected=$(awk -v mode="$mode" '$1 == mode { print $2 }' "$here/exceptions" | sort | comm -13 - "$dir/$mode/failed")
    if [ -n "$unexpected" ]; then
      printf '%-12s not expected to fail: %s; see %s\n' "$mode" "$(echo $unexpected)" "$dir/$mode/regression.diffs"
      status=1
    fi
    if ! grep -qE '^( All | *[0-9]+ of )[0-9]+ tests' "$dir/$mode/log"; then
      printf '%-12s did not end within %s s, see %s\n' "$mode" "$limit" "$dir/$mode/log"
      status=1
    fi
  done
  return $status
}

[ $# -gt 0 ] || set -- direct session transaction shards
mkdir -p "$dir"
suite=$(source_tree)/src/test/regress
source=${suite%/src/test/regress}
trap 'stop_proxy; stop_server' EXIT
# A server of its own for each: roles and statistics of one run are not for the next.
status=0 suites=()
for mode in "$@"; do
  [ "$mode" = shards ] || build
  # Databases of one server are the shards.
  if [ "$mode" = shards ]; then start_server 20; else start_server; fi
  if [ "$mode" = shards ]; then shards || status=1; else run "$mode"; suites+=("$mode"); fi
  stop_server
done
[ ${#suites[@]} = 0 ] || report "${suites[@]}" || status=1
exit $status
