"""Which precision this CPU multiplies matrices in, and how to ask torch for it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal

import torch

from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

# x86 AVX-512 BF16 and AMX; ARM BF16 and SVE BF16. Without them bfloat16 is emulated, and slower.
BF16_UNITS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


def bf16_units() -> tuple[str, ...]:
    """Return which bfloat16 units this CPU has, of those that torch uses."""
    capabilities = torch.cpu.get_capabilities()
    return tuple(name for name in BF16_UNITS if capabilities.get(name, False))


def choose_dtype(wanted: Literal["auto", "float32", "bfloat16"]) -> Literal["float32", "bfloat16"]:
    """Resolve `auto`; refuse bfloat16 where it would be emulated."""
    if wanted == "auto":
        return "bfloat16" if bf16_units() else "float32"
    if wanted == "bfloat16" and not bf16_units():
        raise InputError(
            "this CPU has no bfloat16 units, so bfloat16 would be slower than float32",
            repair="set the dtype to auto or float32",
        )
    return wanted


def compute_in(
    dtype: Literal["float32", "bfloat16"], device: str = "cpu"
) -> AbstractContextManager[object]:
    """Matrix products in `dtype`; weights, norms, softmax and loss stay float32."""
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device, dtype=torch.bfloat16)
