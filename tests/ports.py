"""Free ports of the loopback, for servers that are told where to listen."""

import contextlib
import secrets
import socket


def free_port() -> int:
    """Return a port that nothing listens on, below those that systems hand out by themselves.

    A port that the system picked may be taken by any connection before the server has it; and
    Redis in cluster mode also needs the port 10,000 above its own.
    """
    while True:
        port = 12_000 + secrets.randbelow(10_000)
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", port))
            return port
