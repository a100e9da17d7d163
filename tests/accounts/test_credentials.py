"""Keys: scannable, hard to guess, kept as digests, their pepper replaced without a new key."""

from __future__ import annotations

import hmac
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.accounts import (
    SCANNER_PATTERN,
    TOKEN_PREFIX,
    Peppers,
    is_well_formed,
    load_secrets,
    mint,
    redact,
)
from stillhouse.accounts.credentials import SECRET_CHARS, KeyedHash
from stillhouse.exchanges import InputError


def test_a_key_can_be_found_by_a_scanner_and_checked_by_itself() -> None:
    key = mint()
    assert re.search(SCANNER_PATTERN, f"key = '{key.text}'")
    assert key.text.split("_")[:2] == ["still", key.id]
    assert is_well_formed(key.text)
    assert not is_well_formed(key.text, TOKEN_PREFIX)
    assert is_well_formed(mint(TOKEN_PREFIX).text, TOKEN_PREFIX)
    assert SECRET_CHARS * math.log2(62) >= 192


def test_any_altered_character_breaks_the_checksum_or_the_shape() -> None:
    text = mint().text
    for place in range(len(text)):
        other = "a" if text[place] != "a" else "b"
        assert not is_well_formed(text[:place] + other + text[place + 1 :])


def test_keys_do_not_show_their_secret() -> None:
    key = mint()
    assert key.text not in repr(key)
    assert redact(f"GET /?k={key.text}") == f"GET /?k=still_{key.id}_[redacted]"
    assert key.text not in key.enrolment


@given(st.binary(min_size=1, max_size=64), st.binary(max_size=200))
def test_the_prepared_hash_is_hmac(key: bytes, message: bytes) -> None:
    assert KeyedHash(key).digest(message) == hmac.digest(key, message, "sha256")


def test_secrets_are_made_once_private_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "secrets"
    digests, peppers = load_secrets(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    again, same = load_secrets(folder)
    assert again.key_id == digests.key_id
    key = mint().text
    assert same.digest_key(key) == peppers.digest_key(key)
    (folder / "pepper.1").chmod(0o640)
    with pytest.raises(InputError, match="others can read"):
        load_secrets(folder)
    (folder / "pepper.1").unlink()
    with pytest.raises(InputError, match="no pepper"):
        load_secrets(folder)
    monkeypatch.setenv("STILLHOUSE_PEPPER_4", "00" * 32)
    assert load_secrets(folder)[1].current == 4


def test_a_bad_pepper_in_the_environment_is_not_quoted(tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        Peppers.load(tmp_path, environment={"STILLHOUSE_PEPPER_1": "hunter2"})
    assert "hunter2" not in str(raised.value)
    assert raised.value.place == "STILLHOUSE_PEPPER_1"
