"""Durable writes: whole files by atomic rename, one process per folder, every step named.

Everything the product keeps goes through here or through the journal. Kill tests set `on_step` and
stop the process at each name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Self

from stillhouse.exchanges.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

TEMPORARY_SUFFIX = ".stillhouse-tmp"
_CHUNK_BYTES = 1 << 20


class InUseError(InputError):
    """Another process holds the lock."""


def _no_step(_name: str) -> None:
    """Do nothing: the hook of an ordinary run."""


on_step: Callable[[str], None] = _no_step
"""Called with `KIND:NAME` before each step and `KIND:NAME:done` after it.

KIND is write, fsync, rename, sync-folder or remove; NAME is the file's name. Tests replace it.
"""


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644, new: bool = False) -> None:
    """Put `data` at `path` so that a reader sees the old file or the new one, never a part.

    The new file is on the disk, and so is its name, when this returns. Raises `InputError` when the
    disk is full or the place cannot be written; nothing is left behind then. With `new` a file that
    stands there is never replaced: `FileExistsError`, also when another process was first.
    """
    name = path.name
    with replacing(path, mode=mode, new=new) as temporary:
        on_step(f"write:{name}")
        # Closed to others until its mode is set: the data may be a secret.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o600), "wb", buffering=0) as file:  # noqa: PTH123
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
        on_step(f"write:{name}:done")


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o644, new: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path` to write a file or a folder at; then put it in place.

    For writers that want a path of their own (Parquet, safetensors). What was written is synced and
    renamed when the block ends well and removed when it does not. `new` is as above. A folder is
    put in place only where nothing stands yet (`InputError` otherwise: a folder cannot be swapped
    in one step).
    """
    name = path.name
    # The temporary name does not depend on how long `name` is: names have a limit of 255 bytes.
    temporary = path.with_name(f".{os.getpid()}-{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
    try:
        yield temporary
        if temporary.is_dir():
            if path.exists():
                raise InputError(
                    "this folder exists already", place=str(path), repair="remove or rename it"
                )
            _sync_tree(temporary, name)
        else:
            temporary.chmod(mode)
            _sync_file(temporary, name)
        on_step(f"rename:{name}")
        if new:
            path.hardlink_to(temporary)  # fails where a name exists, which rename does not
            temporary.unlink()
        else:
            temporary.rename(path)
        on_step(f"rename:{name}:done")
        sync_folder(path.parent, name)
    except OSError as error:
        _discard(temporary)
        raise explain(error, path) from error
    except BaseException:
        _discard(temporary)
        raise


def remove(path: Path) -> None:
    """Delete the file `path` for good (its absence is on the disk too when this returns)."""
    on_step(f"remove:{path.name}")
    try:
        path.unlink()
    except FileNotFoundError:
        return
    on_step(f"remove:{path.name}:done")
    sync_folder(path.parent, path.name)


def sync_folder(folder: Path, name: str) -> None:
    """Make the names in `folder` durable (a rename alone is not); `name` is for `on_step`."""
    on_step(f"sync-folder:{name}")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    on_step(f"sync-folder:{name}:done")


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def make_folder(folder: Path) -> None:
    """Create `folder` and its parents, durably. Raises `InputError` where that is not possible."""
    if folder.is_dir():
        return
    if folder.exists():
        raise InputError("a file stands here", place=str(folder), repair="choose another path")
    make_folder(folder.parent)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise explain(error, folder) from error
    sync_folder(folder.parent, folder.name)


def explain(error: OSError, path: Path) -> Exception:
    """Turn an operating-system error the user can repair into an `InputError`; return others."""
    repairs = {
        errno.ENOSPC: ("the disk is full", "free some space, then run the same command again"),
        errno.EDQUOT: ("the disk quota is used up", "free some space, then run it again"),
        errno.EFBIG: ("the file would exceed the size limit", "raise `ulimit -f`"),
        errno.EACCES: ("not permitted to write here", "check the owner and mode of the folder"),
        errno.EROFS: ("the file system is read-only", "choose a folder that can be written"),
        errno.ENOENT: ("no such folder", f"create it: mkdir -p {path.parent}"),
        errno.ENOTDIR: ("a part of this path is a file", "choose another path"),
        errno.ENAMETOOLONG: ("the name is too long", "choose a shorter name"),
    }
    if error.errno not in repairs:
        return error
    message, repair = repairs[error.errno]
    return InputError(message, place=str(path), repair=repair)


class RunLock:
    """Hold `folder` for one process at a time (flock; released by the kernel when it dies).

    Entering creates the folder if needed and removes temporary files that a killed run left in it.
    A second process gets an `InUseError` (an `InputError`) that names the holder's pid.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        path = self.folder / ".lock"
        try:
            make_folder(self.folder)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise explain(error, path) from error
        try:
            lock_descriptor(descriptor, self.folder)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
            for leftover in self.folder.rglob(f".*{TEMPORARY_SUFFIX}"):
                _discard(leftover)
        except OSError as error:
            os.close(descriptor)
            raise explain(error, path) from error
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The lock file stays: unlinking it would let two processes lock two files of one name.
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def lock_descriptor(descriptor: int, path: Path) -> None:
    """Take the exclusive lock of an open file, or raise `InUseError` naming its holder."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        first = os.pread(descriptor, 32, 0).split(b"\n")[0]
        holder = f"process {first.decode()}" if first.isdigit() else "another process"
        raise InUseError(
            f"{holder} is using this",
            place=str(path),
            repair="wait until it has ended, or stop it",
        ) from error


def _sync_file(path: Path, name: str) -> None:
    on_step(f"fsync:{name}")
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    on_step(f"fsync:{name}:done")


def _sync_tree(folder: Path, name: str) -> None:
    for parent, _, files in os.walk(folder):
        for file in files:
            _sync_file(Path(parent, file), file)
        sync_folder(Path(parent), name)


def _discard(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
