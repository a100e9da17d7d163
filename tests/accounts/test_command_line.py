"""`stillhouse accounts`: each act is a command with a worked example, run by its token's owner."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import click
import orjson
import pytest
from click.testing import CliRunner, Result

from stillhouse.accounts import ACTS
from stillhouse.cli.accounts import accounts
from stillhouse.exchanges import InputError

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def call(*arguments: str, token: str = "") -> Result:
        place = ["--store", str(tmp_path / "a.sqlite"), "--secrets", str(tmp_path / "secrets")]
        environment = {"STILLHOUSE_ADMIN_TOKEN": token}
        return CliRunner().invoke(accounts, [*place, *arguments], env=environment)

    return call


def json_of(result: Result) -> dict[str, object]:
    assert result.exit_code == 0, (result.output, result.exception)
    found: dict[str, object] = orjson.loads(result.stdout)
    return found


def test_from_an_empty_folder_to_a_key(run: Run, tmp_path: Path) -> None:
    token = str(json_of(run("first-admin", "--name", "Ada", "--json"))["token"])

    def act(*arguments: str) -> dict[str, object]:
        return json_of(run(*arguments, "--json", token=token))

    organisation = str(act("create-organisation", "--name", "Acme", "--purpose", "chat")["subject"])
    document = tmp_path / "terms.md"
    document.write_text("Be fair.\n")
    published = act(
        "publish-terms", "--text", f"@{document}", "--notice-days", "0", "--clauses", "fair=Be it."
    )["result"]
    assert isinstance(published, dict)
    person = str(
        act("add-representative", "--organisation", organisation, "--name", "G", "--contact", "c")[
            "subject"
        ]
    )
    act(
        "accept-terms", "--organisation", organisation, "--representative", person,
        "--version", "1", "--digest", str(published["digest"]), "--address", "203.0.113.7",
        "--purpose", "chat",
    )  # fmt: skip
    account = str(act("create-account", "--organisation", organisation, "--name", "a")["subject"])
    shown = run("issue-key", "--account", account, "--scopes", "inference", token=token)
    assert "key, shown once: still_" in shown.stdout
    cap = '{"scope": "key", "measure": "requests", "amount": 9, "window_us": 1000}'
    act("define-tier", "--name", "new", "--level", "0", "--caps", cap, "--max-output-tokens", "9")
    behind = act("behind", "--scope", "account", "--subject", account)
    assert behind["affected"] == 1
    ban = ["ban", "--scope", "account", "--subject", account, "--acknowledged", "1"]
    proposed = run(*ban, "--reason", "case 1", token=token)
    assert "a second person: stillhouse accounts approve --proposal prop_" in proposed.stdout
    listed = act("list", "proposals", "--where", "state=open")["items"]
    assert isinstance(listed, list)
    assert [row["act"] for row in listed] == ["ban"]
    assert json_of(run("check-audit", "--json"))["rows"] == 9


def test_rights_are_those_of_the_token(run: Run) -> None:
    admin = str(json_of(run("first-admin", "--name", "Ada", "--json"))["token"])
    made = json_of(run("new-token", "--json"))
    enrolment = str(made["enrolment"])
    add = ["add-operator", "--name", "Vic", "--role", "viewer", "--enrolment", enrolment]
    assert run(*add, token=admin).exit_code == 0
    listed = run("list", "operators", token=str(made["token"]))
    assert listed.exit_code == 0
    assert "name=Vic" in listed.stdout
    create = ["create-organisation", "--name", "x", "--purpose", "y"]
    for token, message in ((str(made["token"]), "enrol"), (admin[:-1], "not the admin token"),
                           ("", "is needed")):  # fmt: skip
        refused = run(*create, token=token)
        assert isinstance(refused.exception, InputError)
        assert message in str(refused.exception)


def test_a_token_file_must_be_private(run: Run, tmp_path: Path) -> None:
    token = str(json_of(run("first-admin", "--name", "Ada", "--json"))["token"])
    file = tmp_path / "token"
    file.write_text(token + "\n")
    file.chmod(0o644)
    refused = run("--token-file", str(file), "list", "operators")
    assert "others can read" in str(refused.exception)
    file.chmod(0o600)
    assert run("--token-file", str(file), "list", "operators").exit_code == 0


def test_every_command_has_a_worked_example_that_can_be_read() -> None:
    context = click.Context(accounts)
    names = accounts.list_commands(context)
    assert set(ACTS) < set(names)
    for name in names:
        verb = accounts.get_command(context, name)
        assert verb is not None
        assert "Example:" in (verb.help or ""), name
        if name in ACTS:
            arguments = shlex.split(ACTS[name].EXAMPLE)
            parsed = verb.make_context(name, arguments)
            assert parsed.params["as_json"] is False


def test_examples_of_acts_are_valid_requests() -> None:
    """Each example fits its act, but for placeholders and a file that is not there."""
    from stillhouse.cli.accounts import _value

    context = click.Context(accounts)
    places = {"ID:SHA256": "4Zq0p9XbT1aK:" + "0" * 64, "@terms.md": "text", "SHA256": "0" * 64}
    for name, act in ACTS.items():
        verb = accounts.get_command(context, name)
        assert verb is not None
        arguments = [places.get(part, part) for part in shlex.split(act.EXAMPLE)]
        given = verb.make_context(name, arguments).params
        fields = {
            field: _value(act.model_fields[field], value)
            for field, value in given.items()
            if field in act.model_fields and value not in (None, ())
        }
        act.model_validate(fields)
