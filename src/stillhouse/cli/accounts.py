"""`stillhouse accounts`: every act and table of the accounts' store, beside its database.

The commands are made from the acts; their rights are those of the operator whose admin token is in
STILLHOUSE_ADMIN_TOKEN or `--token-file`.
"""

from __future__ import annotations

import os
import stat
from dataclasses import asdict, dataclass
from enum import EnumMeta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click
import orjson

from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic.fields import FieldInfo

    from stillhouse.accounts import Act, Done, Store

TOKEN_VARIABLE = "STILLHOUSE_ADMIN_TOKEN"  # noqa: S105  (a name, not a token)
URL_VARIABLE = "STILLHOUSE_ACCOUNTS"
_INDENTED = orjson.OPT_INDENT_2


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the store is, and whose token is used."""

    store: str
    secrets: Path
    token_file: Path | None


class _Acts(click.Group):
    """The fixed commands, and one for each act."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Name every command, the fixed ones first."""
        from stillhouse.accounts.acts import ACTS

        return [*super().list_commands(context), *ACTS]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return a fixed command, or make the one of an act."""
        from stillhouse.accounts.acts import ACTS

        act = ACTS.get(name)
        return super().get_command(context, name) if act is None else _command_of(act)


@click.group(cls=_Acts)
@click.option(
    "--store",
    default=lambda: os.environ.get(URL_VARIABLE, "accounts.sqlite"),
    show_default=f"{URL_VARIABLE}, or accounts.sqlite",
    help="SQLite file or postgresql:// URL (with a password: in the variable, not here).",
)
@click.option(
    "--secrets",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("secrets"),
    show_default=True,
    help="Folder with `secret` and `pepper.N`; made when there is none.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"File of mode 0600 with the admin token; otherwise {TOKEN_VARIABLE}.",
)
@click.pass_context
def accounts(context: click.Context, store: str, secrets: Path, token_file: Path | None) -> None:
    """Organisations, accounts, keys, terms, tiers, bans and address blocks.

    Whoever acts is the operator of the admin token. The first admin is made by the owner of this
    machine, once.

    \b
    Example:
      stillhouse accounts first-admin --name Ada
      stillhouse accounts create-organisation --name Acme --purpose 'support chat'
      stillhouse accounts issue-key --account acct_4Zq0p9XbT1aK --days 90
    """
    context.obj = _Place(store, secrets, token_file)


def _as_json(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")(function)


@accounts.command("first-admin")
@click.option("--name", required=True, help="Who it is.")
@click.option("--rescue", is_flag=True, help="Make one although there are operators.")
@_as_json
@click.pass_obj
def first_admin_command(place: _Place, name: str, rescue: bool, as_json: bool) -> None:
    """Make the first admin of a store. Works once; --rescue is for when no admin is left.

    \b
    Example:
      stillhouse accounts first-admin --name Ada
    """
    from stillhouse.accounts import first_admin

    store = _open(place)
    try:
        token = first_admin(store, name, rescue=rescue)
    finally:
        store.close()
    if as_json:
        click.echo(orjson.dumps({"token": token.text}, option=_INDENTED))
        return
    click.echo("admin token (shown once; keep it in a file of mode 0600):", err=True)
    click.echo(token.text)


@accounts.command("new-token")
@_as_json
def new_token(as_json: bool) -> None:
    """Make an admin token for yourself, and the enrolment line to hand to an admin.

    The token stays with you: whoever enrols you sees a SHA-256 of it.

    \b
    Example:
      stillhouse accounts new-token
    """
    from stillhouse.accounts import TOKEN_PREFIX, mint

    token = mint(TOKEN_PREFIX)
    if as_json:
        made = {"token": token.text, "enrolment": token.enrolment}
        click.echo(orjson.dumps(made, option=_INDENTED))
        return
    click.echo(f"token, for you alone:   {token.text}")
    click.echo(f"enrolment, for an admin: {token.enrolment}")


@accounts.command("list")
@click.argument("collection")
@click.option("--where", "filters", multiple=True, help="COLUMN=VALUE; may be repeated.")
@click.option("--after", help="Where the last page ended.")
@click.option("--limit", type=click.IntRange(1, 500), default=100, show_default=True)
@_as_json
@click.pass_obj
def list_command(
    place: _Place,
    collection: str,
    filters: tuple[str, ...],
    after: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show a table: organisations, accounts, keys, measures, proposals, audit and others.

    \b
    Example:
      stillhouse accounts list measures --where scope=account
    """
    from stillhouse.accounts import Right
    from stillhouse.accounts.roles import demand
    from stillhouse.accounts.views import COLLECTIONS, page

    if collection not in COLLECTIONS:
        names = ", ".join(COLLECTIONS)
        raise InputError("there is no such table", place=collection, repair=f"one of: {names}")
    store = _open(place)
    try:
        demand(store.get_operator(_token(place)), Right.READ)
        rows, following = page(
            store, collection, filters=dict(map(_pair, filters)), after=after, limit=limit
        )
    finally:
        store.close()
    if as_json:
        click.echo(orjson.dumps({"items": rows, "next": following}, option=_INDENTED))
        return
    for row in rows:
        click.echo("  ".join(f"{key}={value}" for key, value in row.items() if value is not None))
    if following is not None:
        click.echo(f"more: --after {following}", err=True)


@accounts.command("behind")
@click.option(
    "--scope",
    required=True,
    type=click.Choice(["key", "account", "organisation", "campaign", "address"]),
)
@click.option("--subject", required=True, help="An id, a campaign, or a network.")
@_as_json
@click.pass_obj
def behind_command(place: _Place, scope: Any, subject: str, as_json: bool) -> None:
    """Show who is behind a subject, seen in 30 days: what `ban` and `block` want acknowledged.

    \b
    Example:
      stillhouse accounts behind --scope address --subject 2001:db8:7::/48
    """
    from stillhouse.accounts import Right
    from stillhouse.accounts.roles import demand
    from stillhouse.accounts.views import preview

    store = _open(place)
    try:
        demand(store.get_operator(_token(place)), Right.READ)
        who = preview(store, scope, subject)
    finally:
        store.close()
    if as_json:
        click.echo(orjson.dumps(asdict(who), option=_INDENTED))
        return
    count = "cannot be told of this network" if who.affected is None else who.affected
    click.echo(f"accounts behind it: {count} (organisations: {who.organisations})")
    click.echo("\n".join(f"  {account}" for account in who.accounts))
    if who.neighbours:
        click.echo("others seen on the same addresses:")
        click.echo("\n".join(f"  {account}" for account in who.neighbours))


@accounts.command("check-audit")
@_as_json
@click.pass_obj
def check_audit(place: _Place, as_json: bool) -> None:
    """Check that no row of the audit was altered or removed.

    \b
    Example:
      stillhouse accounts check-audit
    """
    store = _open(place)
    try:
        count = store.check_audit()
    finally:
        store.close()
    click.echo(orjson.dumps({"rows": count}) if as_json else f"{count} rows, all linked")


@accounts.command("add-pepper")
@_as_json
@click.pass_obj
def add_pepper(place: _Place, as_json: bool) -> None:
    """Add a pepper; keys move to it when they are next used, and none has to be issued again.

    Copy the folder to every machine before the first process starts with it.

    \b
    Example:
      stillhouse accounts --secrets /etc/stillhouse/secrets add-pepper
    """
    from stillhouse.accounts import Peppers

    version = Peppers.add(place.secrets)
    click.echo(orjson.dumps({"version": version}) if as_json else f"pepper.{version} was made")


@accounts.command("upgrade")
@click.pass_obj
def upgrade_command(place: _Place) -> None:
    """Bring the tables of an older release to this one. Stop every process and back up first.

    \b
    Example:
      stillhouse accounts --store accounts.sqlite upgrade
    """
    from stillhouse.accounts.database import upgrade

    upgrade(place.store)
    click.echo("the tables are of this release")


def _command_of(act: type[Act]) -> click.Command:
    def run(as_json: bool, request_key: str | None, **values: Any) -> None:
        from pydantic import ValidationError

        from stillhouse.accounts.desk import explained

        place = click.get_current_context().find_object(_Place)
        if place is None:
            raise AssertionError("the group sets it")
        given = {
            name: _value(act.model_fields[name], value)
            for name, value in values.items()
            if value not in (None, ())
        }
        try:
            request = act.model_validate(given)
        except ValidationError as error:
            raise explained(error) from None
        store = _open(place)
        try:
            operator = store.get_operator(_token(place))
            done = store.perform(operator.id, request, request_key=request_key)
        finally:
            store.close()
        _show(done, as_json)

    parameters: list[click.Parameter] = [
        _option(name, field) for name, field in act.model_fields.items()
    ]
    parameters += [
        click.Option(["--request-key"], help="The same key again: carried out once."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print JSON on stdout."),
    ]
    text = f"{act.__doc__}\n\n\b\nExample:\n  stillhouse accounts {act.NAME} {act.EXAMPLE}"
    return click.Command(
        act.NAME, params=parameters, callback=run, help=text, short_help=act.__doc__
    )


def _option(name: str, field: FieldInfo) -> click.Option:
    kind: Any = field.annotation
    flag = f"--{name.replace('_', '-')}"
    text = field.description or ""
    if isinstance(field.default, (int, str)):
        text = f"{text} [default: {field.default}]".strip()
    options: dict[str, Any] = {"help": text or None, "required": field.is_required()}
    origin = get_origin(kind)
    if kind is bool:
        return click.Option([f"{flag}/--no-{name}"], **options)
    if origin is Literal:
        options["type"] = click.Choice(list(get_args(kind)))
    elif isinstance(kind, EnumMeta):
        options["type"] = click.Choice([str(member) for member in kind])  # type: ignore[var-annotated]
    elif origin in (list, dict):
        options["multiple"] = True
    if origin is dict:
        options["metavar"] = "NAME=TEXT"
    return click.Option([flag], **options)


def _value(field: FieldInfo, value: Any) -> Any:
    """Turn what click gives into what the act reads; `@FILE` stands for the text of a file."""
    kind: Any = field.annotation
    if get_origin(kind) is dict:
        return dict(map(_pair, value))
    if get_origin(kind) is list:
        return [_parsed(one) for one in value]
    if isinstance(value, str) and value.startswith("@"):
        return Path(value[1:]).read_text(encoding="utf-8")
    return value


def _parsed(text: str) -> Any:
    if not text.startswith("{"):
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InputError(f"this is not JSON ({error})", place=text[:80]) from None


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError("a name, an equals sign and a value are needed", place=text[:80])
    return name, value


def _open(place: _Place) -> Store:
    from stillhouse.accounts import open_store

    return open_store(place.store, secrets=place.secrets)


def _token(place: _Place) -> str:
    if place.token_file is None:
        token = os.environ.get(TOKEN_VARIABLE, "")
        if not token:
            raise InputError(
                "an admin token is needed",
                repair=f"set {TOKEN_VARIABLE}, or give --token-file before the command",
            )
        return token.strip()
    try:
        with place.token_file.open(encoding="ascii", errors="replace") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise InputError(
                    "others can read this token",
                    place=str(place.token_file),
                    repair=f"chmod 600 {place.token_file}",
                )
            return file.read(200).strip()
    except OSError as error:
        raise InputError(
            f"the token cannot be read ({error.strerror})", place=str(place.token_file)
        ) from error


def _show(done: Done, as_json: bool) -> None:
    if as_json:
        click.echo(orjson.dumps(done.as_json(), option=_INDENTED))
        return
    if done.proposal is not None:
        click.echo(f"proposed, not done: {done.result['why']}")
        click.echo(f"a second person: stillhouse accounts approve --proposal {done.proposal}")
        return
    click.echo(f"{done.act}: {done.subject}")
    for key, value in done.result.items():
        click.echo(f"  {key}: {value}")
    if done.secret is not None:
        click.echo(f"  key, shown once: {done.secret}")
