from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.exchanges import AccountKeys, ErasedError, InputError, KeyedDigests, KeyFolder

DIGESTS = KeyedDigests(b"s" * 32)


@pytest.fixture
def store(tmp_path: Path) -> KeyFolder:
    return KeyFolder(tmp_path / "keys", DIGESTS)


@pytest.fixture
def keys(store: KeyFolder) -> AccountKeys:
    return AccountKeys(DIGESTS, store)


class MemoryStore(dict[str, bytes]):
    def find(self, account: str) -> bytes | None:
        return self.get(account)

    def add(self, account: str, wrapped: bytes) -> bytes:
        return self.setdefault(account, wrapped)

    def erase(self, account: str) -> None:
        self.pop(account, None)


@given(st.text(), st.text(), st.binary())
def test_a_sealed_text_opens_to_itself(account: str, purpose: str, text: bytes) -> None:
    keys = AccountKeys(DIGESTS, MemoryStore())
    sealed = keys.seal(account, purpose, text)
    assert keys.open(account, purpose, sealed) == text
    assert len(sealed) == len(text) + 29


def test_two_seals_of_one_text_differ_and_hide_it(keys: AccountKeys) -> None:
    one, two = (keys.seal("a", "p", b"the text") for _ in range(2))
    assert one != two
    assert b"the text" not in one


def test_erasing_an_account_makes_its_texts_unreadable_and_no_others(keys: AccountKeys) -> None:
    digest = DIGESTS.digest("request", b"a's request")
    sealed = {account: keys.seal(account, "p", b"text") for account in "ab"}
    keys.erase("a")
    with pytest.raises(ErasedError, match="'a'"):
        keys.open("a", "p", sealed["a"])
    assert keys.open("b", "p", sealed["b"]) == b"text"
    assert DIGESTS.digest("request", b"a's request") == digest
    keys.seal("a", "p", b"new text")  # the account may come back, under a new key
    with pytest.raises(InputError, match="altered"):
        keys.open("a", "p", sealed["a"])
    keys.erase("a")
    keys.erase("a")


def test_a_text_opens_only_for_its_account_and_purpose(keys: AccountKeys) -> None:
    sealed = keys.seal("a", "reply/1", b"text")
    keys.seal("b", "reply/1", b"text")
    for account, purpose in (("b", "reply/1"), ("a", "reply/2")):
        with pytest.raises(InputError, match="altered"):
            keys.open(account, purpose, sealed)


def test_every_altered_byte_is_noticed(keys: AccountKeys) -> None:
    sealed = keys.seal("a", "p", b"text")
    for index in range(len(sealed)):
        altered = bytearray(sealed)
        altered[index] ^= 1
        with pytest.raises(InputError):
            keys.open("a", "p", bytes(altered))
    with pytest.raises(InputError, match="no sealed text"):
        keys.open("a", "p", b"\x01short")


def test_the_kept_key_is_useless_without_the_secret(keys: AccountKeys, store: KeyFolder) -> None:
    sealed = keys.seal("a", "p", b"text")
    other = AccountKeys(KeyedDigests(b"t" * 32), store)
    with pytest.raises(InputError, match="altered"):
        other.open("a", "p", sealed)


def test_a_key_cannot_be_passed_off_as_anothers() -> None:
    store = MemoryStore()
    keys = AccountKeys(DIGESTS, store)
    sealed = keys.seal("a", "p", b"text")
    store["b"] = store["a"]
    with pytest.raises(InputError, match="altered"):
        keys.open("b", "p", sealed)
    with pytest.raises(InputError, match="altered"):
        keys.seal("b", "p", b"text")


def test_the_first_of_two_processes_decides_the_key(store: KeyFolder) -> None:
    assert store.add("a", b"first") == b"first"
    assert store.add("a", b"second") == b"first"
    assert store.find("a") == b"first"


def test_key_files_are_private_and_do_not_name_accounts(tmp_path: Path, keys: AccountKeys) -> None:
    keys.seal("alice@example.com", "p", b"text")
    (path,) = (tmp_path / "keys").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert "alice" not in path.name
