"""A full disk as an error that says so, also through writers that hide what the system told them.

torch and safetensors write by themselves: where the system refuses, they raise errors of their own
(`RuntimeError`, `SafetensorError`) with the reason in the chain of causes, or in words.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from stillhouse.exchanges import InputError, storage

_IN_WORDS = re.compile(r"\(os error (\d+)\)")  # as Rust writes it


@contextlib.contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Raise what the system refused as the `InputError` that tells the repair."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        refused = _refused(error)
        if refused is None:
            raise
        raise storage.explain(refused, place) from error


def _refused(error: BaseException | None) -> OSError | None:
    """The system's own error behind another one, where there is one."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        found = _IN_WORDS.search(str(error))
        if found is not None:
            return OSError(int(found[1]), str(error))
        error = error.__cause__ or error.__context__
    return None
