"""A redis-server of one's own, on a free port of the loopback, ended by its pid."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest


class RedisServer:
    """Starts in `folder`; `extra` are further options of its command line."""

    def __init__(self, folder: Path, *extra: str):
        self.program = shutil.which("redis-server") or shutil.which("valkey-server")
        if self.program is None:
            pytest.skip("needs redis-server or valkey-server")
        self.folder = folder
        self.extra = extra
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        self.process = subprocess.Popen(
            [str(self.program), *options, "--save", "", "--daemonize", "no", *self.extra],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                    probe.sendall(b"PING\r\n")
                    if probe.recv(16).startswith((b"+PONG", b"-")):
                        return
            except OSError:
                if self.process.poll() is not None:
                    raise RuntimeError("redis-server ended") from None
            time.sleep(0.005)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
