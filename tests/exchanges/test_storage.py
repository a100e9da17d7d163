import errno
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from stillhouse.exchanges import (
    InputError,
    InUseError,
    RunLock,
    make_folder,
    replacing,
    sha256_file,
    storage,
    write_atomic,
)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old" * 100_000)
    write_atomic(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, file_size_limit: Callable[[int], AbstractContextManager[None]]
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    with file_size_limit(5000), pytest.raises(InputError, match=r"file: .*size limit"):
        write_atomic(path, b"x" * 100_000)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("number", "says"), [(errno.ENOSPC, "disk is full"), (errno.EDQUOT, "quota is used up")]
)
def test_a_full_disk_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=says) as caught:
        write_atomic(tmp_path / "file", b"x")
    assert "free some space" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mkdir -p"):
        write_atomic(tmp_path / "none" / "file", b"x")


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path, b"x")


def test_a_new_file_never_replaces_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"first", new=True)
    with pytest.raises(FileExistsError):
        write_atomic(path, b"second", new=True)
    assert path.read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_nobody_else_can_read_a_secret_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []

    def look(name: str) -> None:
        if name == "write:secret:done":
            modes.extend(p.stat().st_mode & 0o077 for p in tmp_path.iterdir())

    monkeypatch.setattr(storage, "on_step", look)
    write_atomic(tmp_path / "secret", b"x")
    assert modes == [0]


def test_steps_are_told_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    monkeypatch.setattr(storage, "on_step", steps.append)
    write_atomic(tmp_path / "f", b"x")
    assert steps == [
        f"{kind}:f{end}"
        for kind in ("write", "fsync", "rename", "sync-folder")
        for end in ("", ":done")
    ]


def test_a_folder_is_put_in_place_whole(tmp_path: Path) -> None:
    with replacing(tmp_path / "model") as temporary:
        (temporary / "inner").mkdir(parents=True)
        (temporary / "inner" / "weights").write_bytes(b"w")
        assert not (tmp_path / "model").exists()
    assert (tmp_path / "model" / "inner" / "weights").read_bytes() == b"w"
    with (
        pytest.raises(InputError, match="exists already"),
        replacing(tmp_path / "model") as temporary,
    ):
        temporary.mkdir()
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_an_error_in_the_block_removes_what_was_written(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "f") as temporary:
        temporary.write_bytes(b"%d" % (1 // 0))
    assert list(tmp_path.iterdir()) == []


def test_folders_are_made_with_their_parents(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="a file stands here"):
        make_folder(tmp_path / "file" / "b")


def test_the_digest_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    assert sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from stillhouse.exchanges import RunLock\n"
        "with RunLock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(InUseError, match=f"process {holder.pid} is using this"):
            RunLock(tmp_path).__enter__()
        holder.kill()
    with RunLock(tmp_path):
        pass


def test_the_lock_removes_what_a_killed_run_left(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    left = [tmp_path / f".1-ab{storage.TEMPORARY_SUFFIX}", tmp_path / "deep" / ".2-cd.x"]
    left[1] = left[1].with_suffix(storage.TEMPORARY_SUFFIX)
    for path in left:
        path.write_bytes(b"half")
    (tmp_path / "kept").write_bytes(b"whole")
    with RunLock(tmp_path):
        assert {p.name for p in tmp_path.rglob("*")} == {".lock", "deep", "kept"}
