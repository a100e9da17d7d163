"""The process: sockets, HTTP servers, signals."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import uvicorn

from stillhouse.exchanges import InputError
from stillhouse.gateway.config import host_and_port
from stillhouse.gateway.http import Server
from stillhouse.gateway.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stillhouse.gateway.config import Config

_WATCH_S = 0.5
_HEADER_BYTES = 64 * 1024  # before they are looked at; `bounds.header_bytes` then refuses politely


class _Server(uvicorn.Server):
    """A server whose process handles the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(address: str) -> socket.socket:
    """Return a listening socket for `host:port`. Raises `InputError`."""
    host, port = host_and_port(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(4096)
    except OSError as error:
        listener.close()
        raise InputError(f"cannot listen there ({error.strerror})", place=address) from error
    return listener


def server(app: Any, *, drain_s: float) -> uvicorn.Server:
    """Return a server for an ASGI application: the operator's ports."""
    return _Server(
        uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=max(1, int(drain_s)),
        )
    )


async def serve(
    service: Service,
    listener: socket.socket,
    *,
    ready: Callable[[], None] | None = None,
    signals: bool = True,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT (or `stop`), then drain and close. SIGHUP reloads."""
    config = service.config
    stop = stop or asyncio.Event()
    drain_s = config.timeouts.drain_s
    main = Server(service.app.serve, header_bytes=_HEADER_BYTES)
    servers = []
    if config.metrics is not None:
        servers.append((server(_metrics(service), drain_s=1), bind(config.metrics.listen)))
    if config.admin is not None:
        from stillhouse.accounts.admin import admin_app

        servers.append((server(admin_app(service.store), drain_s=1), bind(config.admin.listen)))
    if signals:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, service.reload)
    _keep_pauses_short()
    running = [asyncio.ensure_future(one.serve(sockets=[socket])) for one, socket in servers]
    watch = asyncio.ensure_future(_watch(main, config))
    try:
        await main.open(listener)
        while not all(one.started for one, _ in servers):
            await asyncio.sleep(0.005)
        if ready is not None:
            ready()
        await stop.wait()
        await service.drain()
    finally:
        watch.cancel()
        for one, _ in servers:
            one.should_exit = True
        await main.close(max(1.0, drain_s))
        await asyncio.gather(*running, return_exceptions=True)
        await service.close()


def _keep_pauses_short() -> None:
    """Have neither the collector nor another thread hold up the loop for long (docs/log.md)."""
    # What is loaded by now stays: the collector need not look at 10^5 accounts again and again.
    gc.collect()
    gc.freeze()
    # Little and often: what survives are cells of new accounts, and each pause is as long as their
    # number. Requests and closed connections leave no cycles behind, so the old are hardly looked
    # at.
    gc.set_threshold(2_000, 5, 10_000)
    # A thread that writes down who was seen may hold the interpreter no longer than this.
    sys.setswitchinterval(0.0005)


async def _watch(main: Server, config: Config) -> None:
    """End connections whose headers do not come, and those whose replies nobody reads."""
    times = config.timeouts
    while True:
        await asyncio.sleep(_WATCH_S)
        main.watch(times.body_s, times.slow_client_s)


def _metrics(service: Service) -> Any:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:  # noqa: ARG001
        found = scope.get("path") == "/metrics"
        body = service.metrics.render() if found else b"not found\n"
        content_type = b"text/plain; version=0.0.4; charset=utf-8"
        headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
        status = 200 if found else 404
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app
