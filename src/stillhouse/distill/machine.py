"""What this machine and installation can do; for the manifest, the plan and `stillhouse doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "numpy", "scipy", "scikit-learn", "pyarrow")
MEMORY_LIMITS = (  # of control groups, version 2 and 1
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
BF16_FLAGS = ("amx_bf16", "avx512_bf16")


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts about where a run takes place."""

    processor: str
    cores: int
    memory_bytes: int
    free_disk_bytes: int
    bf16_units: tuple[str, ...]
    platform: str
    python: str
    packages: dict[str, str | None]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def describe_machine(folder: Path) -> Machine:
    """Read the facts; the free disk is that of `folder`'s file system."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    cpu = _cpu()
    return Machine(
        processor=cpu.get("model name", platform.machine()),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=min(
            [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_container_limits()]
        ),
        free_disk_bytes=shutil.disk_usage(existing).free,
        bf16_units=tuple(flag for flag in BF16_FLAGS if flag in cpu.get("flags", "").split()),
        platform=platform.platform(),
        python=platform.python_version(),
        packages={name: installed_version(name) for name in PACKAGES},
    )


def _container_limits() -> list[int]:
    """Bytes of memory that a container leaves its processes; none where nothing limits them."""
    found = []
    for path in MEMORY_LIMITS:
        try:
            text = path.read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdecimal():  # "max" otherwise
            found.append(int(text))
    return found


def installed_version(package: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    first = text.split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}
