"""Processes and what /proc tells of them; programs and where they are."""

import glob
import os
import pwd
import re
import resource
import shutil
import socket
import subprocess
import sys
import time

TICK = os.sysconf("SC_CLK_TCK")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def say(text):
    print(text, file=sys.stderr, flush=True)


def fail(text):
    say(f"{os.path.relpath(sys.argv[0], ROOT)}: {text}")
    sys.exit(1)


def _stat(pid):
    """Fields of /proc/PID/stat from the third on: state, ppid, …"""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()


def cpu(pid):
    """Seconds of CPU that a process' threads have taken: in nanoseconds where the kernel tells, else
    utime + stime, in ticks."""
    try:
        return sum(int(open(path).read().split()[0])
                   for path in glob.glob(f"/proc/{pid}/task/*/schedstat")) / 1e9
    except (OSError, ValueError, IndexError):
        fields = _stat(pid)
        return (int(fields[11]) + int(fields[12])) / TICK


def cpu_of_trees(pids):
    """utime + stime in seconds of processes, their children and those they have waited for."""
    parents = {str(it) for it in pids}
    total = sum(int(it) for pid in pids for it in _stat(pid)[11:15])
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = _stat(entry)
        except OSError:
            continue
        if fields[1] in parents:
            total += int(fields[11]) + int(fields[12])
    return total / TICK


def resident_kb(pid):
    with open(f"/proc/{pid}/status") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1))


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for it in sockets:
        it.bind(("127.0.0.1", 0))
    ports = [it.getsockname()[1] for it in sockets]
    for it in sockets:
        it.close()
    return ports


def free_port():
    [port] = free_ports(1)
    return port


def allow_files(wanted):
    """Raises the limit of open files, also for programs started later."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < wanted:
        fail(f"{wanted} open files are needed, `ulimit -Hn` allows {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def wait_for(port, process, name, log):
    deadline = time.time() + 60
    while time.time() < deadline:
        if process.poll() is not None:
            fail(f"{name} has ended:\n{open(log).read()}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    fail(f"{name} does not listen:\n{open(log).read()}")


def program(name, *places):
    found = shutil.which(name) or next((it for it in places if os.access(it, os.X_OK)), None)
    return found or fail(f"{name} is not installed; `./dev install` installs it")


def pgbouncer():
    return os.environ.get("PGBOUNCER") or program("pgbouncer", "/usr/sbin/pgbouncer")


def pgbench():
    return program("pgbench", *sorted(glob.glob("/usr/lib/postgresql/*/bin/pgbench"), reverse=True))


def version(path):
    """(1, 18, 0) of what a program prints about itself."""
    text = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    return tuple(int(it) for it in re.search(r"\d+(\.\d+)+", text).group(0).split("."))


def dotted(numbers):
    return ".".join(str(it) for it in numbers)


def service_user():
    """For programs that refuse to run as root: arguments of Popen that run them as somebody else."""
    if os.geteuid() != 0:
        return {}
    names = [it.pw_name for it in pwd.getpwall()]
    name = next(it for it in ("postgres", "nobody") if it in names)
    return {"user": name, "group": pwd.getpwnam(name).pw_gid}


def built(*what):
    """Builds by cargo in the release profile; the folder of the results."""
    subprocess.run(["cargo", "build", "--release", "--locked", *what], cwd=ROOT, check=True)
    return os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release")
