"""One core for what is measured, another for nginx as the model and wrk as the clients."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MEASURED, LOADING = 0, 1  # cores
REPLY = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "small",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "It will rain on Monday. " * 24},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 80, "completion_tokens": 60, "total_tokens": 140},
}
SENTENCE = "Write a short note about the weather in town %d and say what to wear. "
NGINX = """
daemon off; master_process off; error_log stderr crit; pid {folder}/nginx.pid;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  client_body_buffer_size 2m; client_max_body_size 16m;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ default_type application/json; return 200 '{reply}'; }}
  }}
}}
"""
LUA = """
local keys = {}
for line in io.lines("%s") do keys[#keys + 1] = line end
local filler = string.rep("%s", %d)
local n = 0
request = function()
  n = n + 1
  local prompt = string.sub(string.format("%s", n %% 1000) .. filler, 1, %d)
  return wrk.format("POST", nil, {
    ["content-type"] = "application/json",
    ["authorization"] = "Bearer " .. keys[n %% #keys + 1],
  }, '{"model":"small","messages":[{"role":"user","content":"' .. prompt .. '"}]}')
end
done = function(summary, latency, requests)
  io.write(string.format('{"requests":%%d,"us":%%d,"errors":%%d,"p50":%%f,"p99":%%f}\\n',
    summary.requests, summary.duration, summary.errors.status + summary.errors.connect
    + summary.errors.read + summary.errors.timeout, latency:percentile(50),
    latency:percentile(99)))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw, and the processor time that the measured processes took meanwhile."""

    requests: int
    seconds: float
    errors: int
    p50_us: float
    p99_us: float
    cpu_us: float  # a request

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def cpu_s(pids: list[int]) -> float:
    """Return the processor time of processes and of all their children, in seconds."""
    total = 0.0
    tick = os.sysconf("SC_CLK_TCK")
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / tick
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            total += cpu_s([int(child) for child in children])
    return total


def rss_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextlib.contextmanager
def started(
    command: list[str],
    port: int,
    *,
    core: int,
    env: dict[str, str] | None = None,
    wait_s: float = 60,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server pinned to `core` until the end; its output goes nowhere."""
    process = subprocess.Popen(
        command,
        env=env or dict(os.environ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    try:
        end = time.monotonic() + wait_s
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 0.5).close()
                break
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{command[0]} {command[-1]}: does not answer on port {port}")
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_ready(port: int, wait_s: float = 300) -> None:
    """Wait until a gateway of ours is ready: its socket accepts before its accounts are loaded."""
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            found = http.client.HTTPConnection("127.0.0.1", port, timeout=wait_s)
            try:
                found.request("GET", "/readyz")
                if found.getresponse().status == 200:
                    return
            finally:
                found.close()
        time.sleep(0.05)
    raise SystemExit(f"the gateway on port {port} does not get ready")


@contextlib.contextmanager
def nginx(folder: Path) -> Iterator[str]:
    """Run nginx as the model; yields the base URL."""
    program = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    if program is None:
        raise SystemExit("nginx is not installed: apt-get install nginx")
    port = free_port()
    path = folder / "nginx.conf"
    path.write_text(NGINX.format(folder=folder, port=port, reply=json.dumps(REPLY)))
    with started([program, "-c", str(path), "-p", str(folder)], port, core=LOADING):
        yield f"http://127.0.0.1:{port}/v1"


def wrk(folder: Path, port: int, keys: Path, size: int, connections: int, seconds: float) -> Load:
    """Load a port with chat requests of `size` bytes of prompt, a key after the other."""
    script = folder / f"load-{port}-{size}.lua"
    script.write_text(LUA % (keys, SENTENCE % 0, size // len(SENTENCE) + 1, SENTENCE, size))
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    done = subprocess.run(
        [
            *("taskset", "-c", str(LOADING), "wrk", "-t1", f"-c{connections}"),
            *(f"-d{seconds}s", "--timeout", "30s", "-s", str(script), url),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout.strip().splitlines()[-1])
    return Load(told["requests"], told["us"] / 1e6, told["errors"], told["p50"], told["p99"], 0.0)


def python(module: str, *arguments: str) -> list[str]:
    """Return the command of a module of this benchmark."""
    return [sys.executable, "-m", f"benchmarks.gateways.{module}", *arguments]
