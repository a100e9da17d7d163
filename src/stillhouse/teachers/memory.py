"""How much memory a local model takes to answer: its weights, and what the work needs on top."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillhouse.teachers.local import LocalModel

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def peak_memory(model: LocalModel, work: Callable[[], object]) -> int | None:
    """Return bytes: the model's weights plus the most that `work` needed beside them at any time.

    Free memory is first given back to the system, and the kernel's record of the largest resident
    size is reset; what the process already holds (Python, libraries, another model) is not counted.
    `work` must have been done once before, so that what is kept for later calls is there already.
    None where the system does not tell (it takes Linux, and glibc).
    """
    kept = {id(t): t for t in (*model.model.parameters(), *model.model.buffers())}
    weights: int = sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
    try:
        ctypes.CDLL(None).malloc_trim(0)
        _RESET.write_text("5")
        before = _resident("VmRSS")
        work()
        return weights + max(0, _resident("VmHWM") - before)
    except (OSError, AttributeError, LookupError):
        return None


def _resident(name: str) -> int:
    """A line of the process's status, in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise LookupError(name)
    return 1024 * int(found[1])
