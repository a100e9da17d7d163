"""Servers of one's own, on free ports of the loopback, ended by their pids."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from tests.ports import free_port


class RedisServer:
    """Starts in `folder`; `extra` are further options of its command line."""

    def __init__(self, folder: Path, *extra: str):
        self.program = shutil.which("redis-server") or shutil.which("valkey-server")
        if self.program is None:
            pytest.skip("needs redis-server or valkey-server")
        self.folder = folder
        self.extra = extra
        self.port = free_port()
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


class PostgresServer:
    """A PostgreSQL of one's own; the folder is removed by `remove`."""

    def __init__(self) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not found:
            pytest.skip("needs PostgreSQL (Debian: postgresql)")
        self.programs = found[-1].parent
        self.folder = Path(tempfile.mkdtemp(prefix="stillhouse-pg-"))
        self.user: dict[str, int] = {}
        if os.geteuid() == 0:  # the server refuses to run as root
            owner = pwd.getpwnam("postgres")
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
            self.user = {"user": owner.pw_uid, "group": owner.pw_gid}
        init = ["initdb", "-D", "data", "-A", "trust", "-U", "stillhouse", "--no-sync"]
        subprocess.run([self.programs / init[0], *init[1:]], check=True, **self._options())
        self.port = free_port()
        self.url = f"postgresql+psycopg://stillhouse@127.0.0.1:{self.port}/postgres"
        self.start()
        self.wait()

    def start(self) -> None:
        settings = [f"unix_socket_directories={self.folder}", "listen_addresses=127.0.0.1"]
        options = [part for setting in settings for part in ("-c", setting)]
        command = [self.programs / "postgres", "-D", "data", "-p", str(self.port), *options]
        self.process = subprocess.Popen(command, **self._options())

    def wait(self) -> None:
        """Until it answers."""
        engine = sqlalchemy.create_engine(self.url)
        while True:
            try:
                engine.connect().close()
                break
            except sqlalchemy.exc.OperationalError:
                assert self.process.poll() is None, "postgres ended"
                time.sleep(0.02)
        engine.dispose()

    def kill(self) -> None:
        """SIGKILL to the server; its backends notice and end."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def remove(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _options(self) -> dict[str, Any]:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return {**quiet, "cwd": self.folder, **self.user}
