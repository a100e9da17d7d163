"""The configuration is read strictly and opens nothing by itself."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from stillhouse.exchanges import InputError, KeyedDigests
from stillhouse.gateway.config import (
    Bounds,
    Config,
    Hops,
    LimitSetting,
    Listener,
    Model,
    Offer,
    Reasoning,
    Timeouts,
    Tracing,
    Upstream,
    build_config,
    changed_fixed,
    open_doors,
    read_config,
)
from stillhouse.gateway.offering import Offering, credential

SECTIONS = (
    Config,
    Model,
    Upstream,
    Reasoning,
    Hops,
    Timeouts,
    Bounds,
    LimitSetting,
    Offer,
    Listener,
    Tracing,
)
PROXY = {"count": 1, "networks": ["10.0.0.0/8"]}
DOCS = Path(__file__).parents[2] / "docs" / "gateway.md"


def value(**changes: Any) -> dict[str, Any]:
    model = {"name": "m", "upstreams": [{"url": "http://127.0.0.1:8000/v1"}]}
    return {"models": [model | changes.pop("model", {})], **changes}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"modles": []}, "did you mean 'models'?"),
        ({"timeouts": {"conect_s": 1.0}}, "did you mean 'connect_s'?"),
        ({"model": {"upstream": []}}, "did you mean 'upstreams'?"),
        ({"timeouts": {"connect_s": "1"}}, "timeouts.connect_s"),
        ({"bounds": {"in_flight": 0}}, "bounds.in_flight"),
        ({"model": {"price_in_nano": -1}}, "price_in_nano"),
        ({"model": {"price_out_nano": -1}}, "price_out_nano"),
        ({"model": {"template_tokens": -1}}, "template_tokens"),
        ({"model": {"template_tokens_per_message": -1}}, "template_tokens_per_message"),
        ({"listen": "8080"}, "not host:port"),
        ({"trusted_hops": {"count": 1}}, "0 trusted networks"),
        ({"accounts": "postgresql://u:secret@h/d"}, "accounts_env"),
        ({"model": {"upstreams": [{"url": "http://u:p@h/v1"}]}}, "must not hold credentials"),
        ({"model": {"upstreams": [{"url": "ftp://h/v1"}]}}, "no http or https"),
        ({"model": {"upstreams": []}}, "no upstreams"),
        ({"models": []}, "no models"),
        ({"more_limits": [{"scope": "ip", "measure": "requests", "amount": 1}]}, "more_limits"),
        (
            {"more_limits": 2 * [{"scope": "key", "measure": "requests", "amount": 1}]},
            "count the same",
        ),
        (
            {
                "more_limits": [
                    {"scope": "key", "measure": "requests", "amount": 1, "models": ["other"]}
                ]
            },
            "there is no model 'other'",
        ),
    ],
)
def test_a_mistake_is_named(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as raised:
        build_config(value(**changes))
    assert told in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_key_given_twice_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(value()) + "listen: 127.0.0.1:1\nlisten: 0.0.0.0:1\n")
    with pytest.raises(InputError, match="given twice"):
        read_config(path)


def test_paths_are_taken_from_the_files_folder(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(value()))
    config = read_config(path)
    assert config.state == tmp_path / "state"
    assert config.accounts == str(tmp_path / "accounts.sqlite")


def test_the_defaults_open_nothing() -> None:
    config = build_config(value())
    assert [door for door, _ in open_doors(config)] == ["models.m.tokenizer"]
    for section in SECTIONS:
        for field in fields(section):
            if field.metadata["opens"] and field.name != "listen":
                assert field.default in (False, None, 0, (), 1), field.name


@pytest.mark.parametrize(
    "changes",
    [
        {"listen": "0.0.0.0:80"},
        {"admin": {"listen": "127.0.0.1:1"}},
        {"metrics": {"listen": "127.0.0.1:1"}},
        {"trusted_hops": PROXY},
        {"trusted_hops": {**PROXY, "country_header": "x-country"}},
        {"trusted_hops": {**PROXY, "asn_header": "x-asn"}},
        {"trusted_hops": {**PROXY, "fingerprint_header": "x-ja4"}},
        {"trusted_hops": {**PROXY, "trace_context": True}},
        {"tracing": {"url": "http://127.0.0.1:4318/v1/traces"}},
        {"offer": {"reasoning": True}},
        {"offer": {"reasoning_blobs": True}},
        {"offer": {"prefill": True}},
        {"offer": {"logit_bias": True}},
        {"offer": {"image_hosts": ["example.org"]}},
        {"offer": {"choices": 2}},
        {"model": {"images": True}},
        {"model": {"upstreams": [{"url": "http://10.0.0.1/v1"}]}},
        {"more_limits": [{"scope": "model", "measure": "requests", "amount": 9, "shadow": True}]},
    ],
)
def test_every_open_door_is_named(changes: dict[str, Any]) -> None:
    before = len(open_doors(build_config(value())))
    more = 2 if len(changes.get("trusted_hops", {})) > 2 else 1  # the proxy itself is one
    assert len(open_doors(build_config(value(**changes)))) == before + more


def test_every_setting_is_explained_and_documented() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for section in SECTIONS:
        for field in fields(section):
            assert field.metadata["help"], field.name
            assert f"`{field.name}`" in text, f"{section.__name__}.{field.name}"


def test_what_is_open_cannot_be_reloaded() -> None:
    before = build_config(value())
    assert changed_fixed(before, build_config(value(listen="127.0.0.1:1"))) == ["listen"]
    assert changed_fixed(before, build_config(value(bounds={"depth": 9}))) == []


def test_credentials_come_from_the_environment_or_a_private_file(tmp_path: Path) -> None:
    url = "https://h/v1"
    assert credential(Upstream(url=url, key_env="UP"), {"UP": "k1\n"}) == "k1"
    with pytest.raises(InputError, match="UP is not set"):
        credential(Upstream(url=url, key_env="UP"), {})
    path = tmp_path / "key"
    path.write_text("k2")
    path.chmod(0o644)
    with pytest.raises(InputError, match="others can read"):
        credential(Upstream(url=url, key_file=path), {})
    path.chmod(0o600)
    assert credential(Upstream(url=url, key_file=path), {}) == "k2"
    with pytest.raises(InputError) as raised:
        credential(Upstream(url=url, key_env="UP"), {"UP": "k 3\x00"})
    assert "k 3" not in str(raised.value)


def test_a_tokenizer_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    config = build_config(value(model={"tokenizer": "tokenizer.json"}), folder=tmp_path)

    async def settle(*_: Any, **__: Any) -> None:
        return None

    with pytest.raises(InputError, match=r"tokenizer\.json"):
        Offering(config, KeyedDigests(b"x" * 32), settle)
