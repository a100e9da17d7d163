"""What `stillhouse doctor` says of a gateway's configuration: what it opens, what it lacks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml

from stillhouse.accounts.doors import open_doors as open_doors_of_accounts
from stillhouse.exchanges import InputError
from stillhouse.gateway.config import open_doors, read_config
from stillhouse.gateway.offering import credential

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillhouse.gateway.config import Config


class Remark(NamedTuple):
    """One fact; `state` is ok, opens, missing or unknown."""

    state: str
    subject: str
    detail: str
    repair: str = ""


def is_configuration(path: Path) -> bool:
    """Say whether a YAML file is a gateway's: it names models. False where it cannot be read."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(value, dict) and "models" in value


def examine(path: Path, environment: Mapping[str, str] | None = None) -> list[Remark]:
    """Look at a configuration, its secrets and its accounts; change nothing and ask nobody.

    Raises `InputError` for a configuration that could not be served.
    """
    values = os.environ if environment is None else environment
    config = read_config(path)
    found = [Remark("opens", door, what) for door, what in open_doors(config)]
    return [*found, *_credentials(config, values), *_secrets(config), *_accounts(config)]


def _credentials(config: Config, values: Mapping[str, str]) -> list[Remark]:
    found = []
    for model in config.models:
        for upstream in model.upstreams:
            try:
                credential(upstream, values)
            except InputError as error:
                subject = f"models.{model.name}.upstreams"
                found.append(Remark("missing", subject, error.message, error.repair or ""))
    for name in (config.accounts_env, config.limits_env):
        if name is not None and name not in values:
            found.append(Remark("missing", name, "this environment variable is not set"))
    return found


def _secrets(config: Config) -> list[Remark]:
    folder = config.secrets
    if not folder.exists():
        return [Remark("unknown", "secrets", f"{folder} is not there yet; the gateway makes it")]
    return [
        Remark("opens", f"secrets.{path.name}", f"others can read {path}", f"chmod go= {path}")
        for path in (folder, *sorted(folder.iterdir()))
        if path.stat().st_mode & 0o077
    ]


def _accounts(config: Config) -> list[Remark]:
    if config.accounts_env is not None or "://" in config.accounts:
        told = "on a server that is not asked here; see: stillhouse accounts list tiers"
        return [Remark("unknown", "accounts", told)]
    database = Path(config.accounts)
    if not database.exists():
        return [Remark("unknown", "accounts", f"{database} is not there yet")]
    try:
        doors = open_doors_of_accounts(database)
    except InputError as error:
        return [Remark("unknown", "accounts", error.message)]
    found = [Remark("opens", f"accounts.{door}", what) for door, what in doors]
    if database.stat().st_mode & 0o077:
        told = f"others can read {database}"
        found.append(Remark("opens", "accounts", told, f"chmod go= {database}"))
    return found
