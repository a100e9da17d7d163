"""`stillhouse gateway`: the guard in front of a model's server."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from stillhouse.gateway.config import Config


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--demo", is_flag=True, help="A loopback teacher, one account, a ready curl line.")
@click.option("--check", is_flag=True, help="Read CONFIG, say what it opens, and end.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the demonstration; a temporary one otherwise.",
)
@click.option("--listen", help="host:port of this process, in place of CONFIG's.")
@click.option("--metrics", help="host:port of this process's metrics, in place of CONFIG's.")
def gateway(
    config: Path | None,
    demo: bool,
    check: bool,
    state: Path | None,
    listen: str | None,
    metrics: str | None,
) -> None:
    """Serve the models of CONFIG to accounts with keys, within limits, and keep others out.

    SIGTERM drains and ends, SIGHUP reads CONFIG again. Logs go to standard error, one JSON object a
    line.

    \b
    Example:
      stillhouse gateway --demo
      stillhouse gateway gateway.yaml --check
      stillhouse gateway gateway.yaml
      stillhouse gateway gateway.yaml --listen 127.0.0.1:8082 --metrics 127.0.0.1:9082
    """
    from stillhouse.gateway.config import open_doors, read_config

    if demo == (config is not None):
        raise click.UsageError("give a CONFIG, or --demo")
    if demo:
        with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
            _run(_demo(state or Path(folder)))
        return
    if config is None:
        raise click.UsageError("give a CONFIG")
    over: dict[str, Any] = {} if listen is None else {"listen": listen}
    if metrics is not None:
        over["metrics"] = {"listen": metrics}
    settings = read_config(config, over)
    if check:
        for door, what in open_doors(settings):
            click.echo(f"open     {door}: {what}")
        click.echo(f"{config}: {len(settings.models)} models, listens on {settings.listen}")
        return
    _run(_serve(settings, config, over))


def _run(work: object) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)  # type: ignore[arg-type]


async def _serve(settings: Config, path: Path, over: Mapping[str, Any]) -> None:
    from stillhouse.gateway.service import Service
    from stillhouse.gateway.serving import bind, serve

    listener = bind(settings.listen)
    service = await Service.open(settings, path=path, over=over)
    await serve(service, listener, ready=lambda: service.log.event("ready", listen=settings.listen))


async def _demo(folder: Path) -> None:
    from stillhouse.accounts import furnish, open_store
    from stillhouse.gateway import demo
    from stillhouse.gateway.config import build_config
    from stillhouse.gateway.service import Service
    from stillhouse.gateway.serving import bind, serve, server

    teacher_listener = bind("127.0.0.1:0")
    teacher = server(demo.teacher, drain_s=1)
    teaching = asyncio.ensure_future(teacher.serve(sockets=[teacher_listener]))
    url = f"http://127.0.0.1:{teacher_listener.getsockname()[1]}/v1"
    listener = bind("127.0.0.1:0")
    listen = f"127.0.0.1:{listener.getsockname()[1]}"
    settings = build_config(demo.config_value(url, listen), folder=folder)
    store = open_store(settings.accounts, secrets=settings.secrets)
    key = furnish(store).keys[0]
    store.close()
    service = await Service.open(settings)
    line = demo.curl_line(listen, key)
    try:
        await serve(service, listener, ready=lambda: print(line, flush=True))
    finally:
        teacher.should_exit = True
        await teaching
