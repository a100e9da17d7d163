"""`stillhouse probe`: what a running gateway lets through."""

from __future__ import annotations

import asyncio
import os

import click

from stillhouse.cli.exits import Exit


@click.command()
@click.argument("gateway", required=False)
@click.option(
    "--listen",
    default="127.0.0.1:9901",
    show_default=True,
    help="host:port of the adversarial upstream, which this command is.",
)
@click.option(
    "--key-env",
    default="STILLHOUSE_PROBE_KEY",
    show_default=True,
    help="Environment variable with a key of the gateway.",
)
@click.option("--quick", is_flag=True, help="Every ninth probe.")
def probe(gateway: str | None, listen: str, key_env: str, quick: bool) -> None:
    """Send a running GATEWAY, of any make, every probe of the bypass suite; say what leaks.

    GATEWAY is its URL as clients have it, up to and with /v1. This command is the upstream that
    tells secrets in every field, and the client that looks for them; the gateway gets some
    thousand small requests and nothing of it is changed. Without GATEWAY, the models are printed
    that its configuration needs while it is tried. Ends with 7 if anything leaks or an honest
    reply comes out altered.

    \b
    Example:
      stillhouse probe > probe-models.yaml
      STILLHOUSE_PROBE_KEY=... stillhouse probe http://127.0.0.1:8080/v1
    """
    import uvloop
    import yaml

    from stillhouse.gateway.probes import probe_configuration, try_gateway

    if gateway is None:
        click.echo(yaml.safe_dump(probe_configuration(f"http://{listen}/v1"), sort_keys=False))
        return
    key = os.environ.get(key_env)
    if not key:
        raise click.UsageError(f"the environment variable {key_env} is not set")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        tried = runner.run(
            try_gateway(
                gateway,
                key,
                listen=listen,
                every=9 if quick else 1,
                told=lambda what: click.echo(f"trying   {what}", err=True),
            )
        )
    for name in tried.leaked:
        click.echo(f"leaked   {name}")
    for name in tried.altered:
        click.echo(f"altered  {name}")
    click.echo(
        f"{tried.asked} requests reached the upstream, {tried.refused} were refused before it; "
        f"{len(tried.leaked)} probes leaked, {len(tried.altered)} honest replies were altered"
    )
    if tried.leaked or tried.altered:
        raise click.exceptions.Exit(Exit.CHECK)
