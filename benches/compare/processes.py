"""Processes on the cores that they belong to, and what they cost. All on loopback; each is ended by its own id."""

import http.client
import os
import re
import resource
import socket
import ssl
import subprocess
import time

PROXY_CORE, LOAD_CORE = 0, 1
HERE = os.path.dirname(os.path.abspath(__file__))
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
START_SECONDS = 30


class Failed(Exception):
    """A contender that does not start, or does not answer as all must."""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for held in sockets:
        held.bind(("127.0.0.1", 0))
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


class Process:
    """One process, pinned to a core, or to several."""

    def __init__(self, name, command, directory, cores, environment=None):
        self.name = name
        self.directory = directory
        with open(os.path.join(directory, "output.txt"), "wb") as output:
            self.child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=directory,
                env={**os.environ, **(environment or {})}, preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )
        self.pid = self.child.pid

    def cpu_seconds(self):
        with open(f"/proc/{self.pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        # utime and stime: all threads of the process, those that have ended too.
        return (int(fields[11]) + int(fields[12])) / TICK

    def resident_mib(self):
        with open(f"/proc/{self.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * PAGE / 2**20

    def wait_until(self, ready):
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return ready()
            except (OSError, http.client.HTTPException) as error:
                if self.child.poll() is not None or time.monotonic() > deadline:
                    raise Failed(f"{self.name} does not serve ({error}):\n{self.output()}") from error
                time.sleep(0.02)

    def output(self):
        with open(os.path.join(self.directory, "output.txt"), encoding="utf-8", errors="replace") as file:
            return file.read()[-2000:]

    def stop(self):
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(10)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()


def verify(name, port, path, body, header, tls=False):
    """Two requests on one connection: status, body, header, and a connection that stays open."""
    if tls:
        # Its certificate is of its own making.
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        for _ in range(2):
            connection.request("GET", path)
            response = connection.getresponse()
            found = response.read()
            if response.status in (502, 503):
                raise ConnectionError(f"status {response.status}")
            if response.status != 200 or found != body:
                raise Failed(f"{name} answers {path} with status {response.status} and {len(found)} bytes")
            if header and response.getheader(header[0]) != header[1]:
                raise Failed(f"{name} answers without {header[0]}: {header[1]}: {response.getheaders()}")
            if response.will_close:
                raise Failed(f"{name} closes connections after one request")
    finally:
        connection.close()


def core_busy_seconds(core):
    """User, system, interrupts and what the host took: all that was not idle."""
    with open("/proc/stat", encoding="ascii") as file:
        line = next(line for line in file if line.startswith(f"cpu{core} "))
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in line.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICK


def wrk(port, path, seconds, connections, headers=(), tls=False, script=None):
    """Requests completed, and seconds that it took. Any error is one too many."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    if script:
        command += ["-s", os.path.join(HERE, script)]
    for header in headers:
        command += ["-H", header]
    ran = subprocess.run([*command, f"{'https' if tls else 'http'}://127.0.0.1:{port}{path}"], capture_output=True, text=True, check=False,
                         timeout=seconds + 60)
    found = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", ran.stdout)
    if not found or "Non-2xx" in ran.stdout or "Socket errors" in ran.stdout:
        raise Failed(f"the load was not served:\n{ran.stdout}{ran.stderr}")
    return int(found[1]), float(found[2]) * {"ms": 0.001, "s": 1, "m": 60}[found[3]]


def h2load(port, path, seconds, connections, streams):
    """Likewise, over HTTP/2 and TLS."""
    command = ["h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-D{seconds}", f"https://127.0.0.1:{port}{path}"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
    took = re.search(r"finished in ([\d.]+)(ms|s)", ran.stdout)
    counts = re.search(r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored", ran.stdout)
    if not took or not counts or int(counts[3]) or int(counts[4]) or "Application protocol: h2" not in ran.stdout:
        raise Failed(f"the load was not served:\n{ran.stdout}{ran.stderr}")
    return int(counts[2]), float(took[1]) * {"ms": 0.001, "s": 1}[took[2]]


def handshakes(program, port, seconds, connections, mode):
    """Handshakes, new or resumed, and seconds that they took."""
    command = [program, f"127.0.0.1:{port}", str(seconds), str(connections), mode]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
    found = re.search(r"(\d+) handshakes in ([\d.]+)s, (\d+) resumed", ran.stdout)
    if not found:
        raise Failed(f"the load was not served:\n{ran.stdout}{ran.stderr}")
    done, resumed = int(found[1]), int(found[3])
    # Each client's first is in full.
    if resumed not in ((0,) if mode == "new" else range(done - 2 * connections, done + 1)):
        raise Failed(f"of {done} handshakes {resumed} were resumed")
    return done, float(found[2])


def at_rate(program, port, path, seconds, connections, rate):
    """Latencies in microseconds, by percentile, of requests at a constant rate; and seconds that they took."""
    command = [program, f"127.0.0.1:{port}", path, str(seconds), str(connections), str(rate)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
    found = re.search(r"(\d+) requests in ([\d.]+)s, p50 (\d+) p99 (\d+) p99.9 (\d+) max (\d+) us", ran.stdout)
    if not found:
        raise Failed(f"the load was not served:\n{ran.stdout}{ran.stderr}")
    return {"p50": int(found[3]), "p99": int(found[4]), "p99.9": int(found[5])}, float(found[2])


def raise_descriptor_limit():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
