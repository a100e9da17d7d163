import pickle

import pytest

from stillhouse.exchanges import InputError
from stillhouse.teachers.secret import Secret


def test_a_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("A_KEY", " sk-1 \n")
    assert Secret.from_env("A_KEY").reveal() == "sk-1"
    monkeypatch.delenv("A_KEY")
    with pytest.raises(InputError, match="A_KEY is not set"):
        Secret.from_env("A_KEY")


def test_a_key_file_that_others_can_read_is_refused(tmp_path):
    path = tmp_path / "key"
    path.write_text("sk-1\n")
    path.chmod(0o640)
    with pytest.raises(InputError, match="mode 0640") as error:
        Secret.from_file(path)
    assert f"chmod 600 {path}" in str(error.value)
    path.chmod(0o600)
    assert Secret.from_file(path).reveal() == "sk-1"


@pytest.mark.parametrize("value", ["", "  ", "two words", "line\nbreak", "schlüssel"])
def test_a_key_that_is_no_key_is_refused_without_being_shown(value):
    with pytest.raises(InputError) as error:
        Secret(value)
    assert not value.strip() or value not in str(error.value)


def test_a_missing_key_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Secret.from_file(tmp_path / "none")


def test_a_key_is_neither_shown_nor_pickled():
    secret = Secret("sk-1")
    assert "sk-1" not in f"{secret} {secret!r}"
    assert secret.mask("use sk-1, not sk-2") == "use ***, not sk-2"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
