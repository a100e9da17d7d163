"""Nothing opens by default, and one page says everything that opens something."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from click.testing import CliRunner

from stillhouse.accounts import acts, doors, furnish, open_store
from stillhouse.cli import command
from stillhouse.distill import examination as of_recipes
from stillhouse.gateway.config import Config, build_config, open_doors
from stillhouse.gateway.examination import examine

PAGE = (Path(__file__).parents[1] / "docs" / "doors.md").read_text(encoding="utf-8")
LISTED = set(re.findall(r"`([a-z_.A-Z]+)`(?=[^\n|]*\|)", PAGE))
SMALLEST = {
    "models": [{"name": "small", "upstreams": [{"url": "http://127.0.0.1:8000/v1"}]}],
}


def settings_that_open(section: type[Any] = Config, prefix: str = "") -> dict[str, Any]:
    """Every setting marked as a door, by its path, with its default."""
    found: dict[str, Any] = {}
    for field in fields(section):
        hint = get_type_hints(section)[field.name]
        inner = [kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)]
        if field.metadata["opens"]:
            found[prefix + field.name] = field.default
        elif inner:
            found |= settings_that_open(inner[0], f"{prefix}{field.name}.")  # type: ignore[arg-type]
    return found


def test_no_default_opens_anything(tmp_path: Path) -> None:
    for name, default in settings_that_open().items():
        assert default in (False, None, 0, (), 1, "127.0.0.1:8080"), name
    config = build_config(SMALLEST, folder=tmp_path)
    # Without a tokenizer the bound is looser, never in the client's favour.
    assert [door for door, _ in open_doors(config)] == ["models.small.tokenizer"]


def test_the_page_lists_every_setting_that_opens_something() -> None:
    assert set(settings_that_open()) - LISTED == set()


def test_the_page_lists_everything_that_doctor_can_name() -> None:
    told = set(re.findall(r'"([a-z_]+(?:\.[a-z_]+)*)"', inspect.getsource(of_recipes._recipe)))
    wanted = {name for name in told if name.split(".")[0] in ("teacher", "student", "curate",
              "judge", "budget")}  # fmt: skip
    wanted -= {"teacher.api_key_env"}  # something that is missing, not open
    assert {"teacher.url", "budget"} < wanted
    assert wanted - LISTED == set()
    source = inspect.getsource(open_doors)
    for name in ("reasoning", "reasoning_blobs", "prefill", "logit_bias", "image_hosts"):
        assert f'"{name}"' in source
        assert f"offer.{name}" in LISTED


def test_the_page_lists_nothing_that_is_no_setting() -> None:
    known = set(settings_that_open()) | {
        "models.tokenizer",
        "models.upstreams",
        "accounts.tiers.NAME.top_logprobs",
        "accounts.tiers.NAME.caps",
        "accounts.tiers.NAME.caps.shadow",
        "accounts.operators",
        "accounts",
        "secrets.NAME",
        "budget",
        "teacher.url",
        "curate.function",
        "judge.function",
        "teacher.package",
        "student.package",
    }
    assert {name for name in LISTED if name != "tokens_per_image"} - known == set()


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(SMALLEST))
    store = open_store(str(tmp_path / "accounts.sqlite"), secrets=tmp_path / "secrets")
    made = furnish(store)
    store.perform(
        made.operator,
        acts.DefineTier(
            name="anyone",
            level=0,
            caps=[
                {"scope": "key", "measure": "requests", "amount": 10, "window_us": 60_000_000},
                {"scope": "account", "measure": "concurrency", "amount": 1, "shadow": True},
            ],
            max_output_tokens=10,
            top_logprobs=5,
        ),
    )
    store.close()
    return path


def test_doctor_names_every_open_door_of_a_gateway(configured: Path) -> None:
    (configured.parent / "secrets" / "secret").chmod(0o644)
    more = {"listen": "0.0.0.0:80", "admin": {"listen": "127.0.0.1:1"}, "offer": {"prefill": True}}
    configured.write_text(yaml.safe_dump({**SMALLEST, **more}))
    opens = {remark.subject for remark in examine(configured, {}) if remark.state == "opens"}
    assert opens == {
        "listen",
        "admin",
        "offer.prefill",
        "models.small.tokenizer",
        "secrets.secret",
        "accounts.operators",
        "accounts.tiers.anyone.top_logprobs",
        "accounts.tiers.anyone.caps",
        "accounts.tiers.anyone.caps.shadow",
    }


def test_a_store_as_it_is_made_has_one_admin_and_nothing_else_open(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "a.sqlite"), secrets=tmp_path / "secrets")
    furnish(store)
    # Read while it is open, and after.
    assert [door for door, _ in doors.open_doors(tmp_path / "a.sqlite")] == ["operators"]
    store.close()
    assert [door for door, _ in doors.open_doors(tmp_path / "a.sqlite")] == ["operators"]


def test_doctor_finds_a_gateways_file_by_itself_and_prints_json(
    configured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(configured.parent)
    done = CliRunner().invoke(command, ["doctor", "--json"])
    assert done.exit_code == 0, done.output
    found = {one["subject"]: one["state"] for one in json.loads(done.stdout)}
    assert found["accounts.tiers.anyone.top_logprobs"] == "opens"


def test_doctor_says_what_a_gateway_lacks_and_makes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    upstream = {"url": "http://10.0.0.1:8000/v1", "key_env": "UPSTREAM_KEY"}
    models = [{"name": "small", "upstreams": [upstream]}]
    path.write_text(yaml.safe_dump({"models": models, "accounts_env": "ACCOUNTS"}))
    found = {(one.state, one.subject) for one in examine(path, {})}
    assert ("missing", "models.small.upstreams") in found
    assert ("opens", "models.small.upstreams") in found
    assert ("missing", "ACCOUNTS") in found
    assert [one.name for one in tmp_path.iterdir()] == ["gateway.yaml"]
    held = {one.state for one in examine(path, {"UPSTREAM_KEY": "k", "ACCOUNTS": "postgresql://x"})}
    assert "missing" not in held
