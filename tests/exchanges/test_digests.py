import hashlib
import hmac
import os
from pathlib import Path

import pytest

from stillhouse.exchanges import InputError, KeyedDigests, create_secret

SECRET = bytes(range(32))


def test_a_digest_is_hmac_under_an_hkdf_key() -> None:
    # RFC 5869 by hand: extract with a zero salt, expand one block.
    extracted = hmac.digest(bytes(32), SECRET, "sha256")
    key = hmac.digest(extracted, b"stillhouse/1/prompt" + b"\x01", "sha256")
    expected = hmac.digest(key, b"data", "sha256")
    assert KeyedDigests(SECRET).digest("prompt", b"data") == expected


def test_digests_depend_on_secret_purpose_and_data() -> None:
    digests = KeyedDigests(SECRET)
    others = [
        digests.digest("b", b"data"),
        digests.digest("a", b"datb"),
        KeyedDigests(SECRET + b"x").digest("a", b"data"),
        hashlib.sha256(b"data").digest(),
    ]
    assert digests.digest("a", b"data") not in others
    assert digests.digest("a", b"data") == KeyedDigests(SECRET).digest("a", b"data")


def test_the_key_id_tells_secrets_apart_and_is_no_digest_of_use() -> None:
    assert KeyedDigests(SECRET).key_id != KeyedDigests(SECRET + b"x").key_id
    assert len(KeyedDigests(SECRET).key_id) == 16


def test_the_secret_shows_nowhere(tmp_path: Path) -> None:
    assert SECRET.hex() not in repr(KeyedDigests(SECRET))
    path = tmp_path / "secret"
    path.write_text(SECRET.hex() + "zz")
    path.chmod(0o600)
    with pytest.raises(InputError, match="not hexadecimal") as caught:
        KeyedDigests.load(path)
    assert SECRET.hex()[:8] not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_short_secret_or_an_empty_purpose_is_refused() -> None:
    with pytest.raises(InputError, match="31 bytes"):
        KeyedDigests(SECRET[:31])
    with pytest.raises(InputError, match="purpose"):
        KeyedDigests(SECRET).digest("", b"x")


def test_a_secret_is_made_once_and_read_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    create_secret(path)
    assert path.stat().st_mode & 0o777 == 0o600
    first = KeyedDigests.load(path).key_id
    with pytest.raises(InputError, match="exists already"):
        create_secret(path)
    assert KeyedDigests.load(path).key_id == first


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610])
def test_a_secret_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    create_secret(path)
    path.chmod(mode)
    with pytest.raises(InputError, match=f"mode 0{mode:o}(?s:.*)chmod 600"):
        KeyedDigests.load(path)


def test_a_secret_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"
    create_secret(path)
    if path.stat().st_uid == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(InputError, match="another user"):
        KeyedDigests.load(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        KeyedDigests.load(tmp_path / "none")


def test_the_environment_can_hold_the_secret() -> None:
    loaded = KeyedDigests.load(None, environment={"STILLHOUSE_SECRET": SECRET.hex()})
    assert loaded.key_id == KeyedDigests(SECRET).key_id
    with pytest.raises(InputError, match="STILLHOUSE_SECRET is not set"):
        KeyedDigests.load(None, environment={})
