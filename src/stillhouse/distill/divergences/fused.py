"""From hidden states to loss and gradients, a chunk of positions at a time.

Logits of the student and the teacher exist for one chunk only, and loss and gradient are made in
one pass over it: nothing is computed twice and no autograd graph holds logits. Memory is flat in
the number of positions. The oracle is NumPy in float64 (tests/distill/divergences/oracle.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from stillhouse.distill.divergences import kernels
from stillhouse.distill.divergences.head import Curve
from stillhouse.distill.divergences.signals import HiddenStates, Sampled, TopK
from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from stillhouse.distill.divergences.divergence import Divergence
    from stillhouse.distill.divergences.head import Head
    from stillhouse.distill.divergences.signals import Signal

CHUNK_BYTES = 64 << 20  # of one float32 buffer of logits; the matrix products do not gain by more
# A GPU's products read both heads again for each chunk, and want about a thousand positions for
# that not to be most of the work (computed for 128,256 ids; not measured).
GPU_CHUNK_BYTES = 512 << 20
_WEIGHT_ROWS = 8192  # vocabulary rows whose weight gradient is made at a time


def divergence_loss(
    hidden_MD: torch.Tensor,
    head: Head,
    signal: Signal,
    divergence: Divergence,
    *,
    reply_tokens: float,
    vocabulary: int | None = None,
    dtype: torch.dtype | None = None,
    chunk_bytes: int | None = None,
    compiled: bool = False,
) -> torch.Tensor:
    """Return sum(D) / `reply_tokens` over M positions: a scalar that can be differentiated.

    `hidden_MD` are the student's last hidden states at the positions that predict reply tokens,
    `signal` the teacher's word on the same positions, `reply_tokens` the divisor of `normaliser`:
    the count of the whole step, not of this call. `vocabulary` is the number of ids that both
    models share (rows beyond it are padding); it may be left out where the heads agree. With
    `HiddenStates.kept_K` it counts the teacher's ids, and the student's rows are all used.
    `dtype` is that of the matrix products (the hidden states' own when absent); sums and the
    weight's gradient are float32 at least. Where `head.weight_VD` needs no gradient none is made.
    `compiled` fuses the arithmetic between the products (full signals; needs a C++ compiler, or
    Triton on a GPU). `chunk_bytes` bounds one float32 buffer of logits, all ids of some positions;
    about five live at a time. The default is `CHUNK_BYTES`, on a GPU `GPU_CHUNK_BYTES`.

    Raises `InputError` for sizes, temperatures or vocabularies that do not fit, and for a sampled
    signal with any divergence but forward KL.
    """
    shared = _check(hidden_MD, head, signal, divergence, reply_tokens, vocabulary)
    if chunk_bytes is None:
        chunk_bytes = GPU_CHUNK_BYTES if hidden_MD.is_cuda else CHUNK_BYTES
    loss: torch.Tensor = _Fused.apply(  # type: ignore[no-untyped-call]
        hidden_MD,
        head.weight_VD,
        head.bias_V,
        _Settings(
            head,
            signal,
            divergence,
            shared,
            vocabulary,
            dtype or hidden_MD.dtype,
            chunk_bytes,
            compiled,
            torch.is_grad_enabled(),
        ),
    )
    return loss / reply_tokens


def chunk_rows(vocabulary: int, chunk_bytes: int = CHUNK_BYTES) -> int:
    """Return how many positions a chunk has."""
    return max(1, chunk_bytes // (4 * vocabulary))


class _Settings(NamedTuple):
    head: Head
    signal: Signal
    divergence: Divergence
    vocabulary: int
    asked: int | None
    dtype: torch.dtype
    chunk_bytes: int
    compiled: bool
    learns: bool


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        settings: _Settings,
    ) -> torch.Tensor:
        head, signal, divergence, vocabulary, asked, dtype, chunk_bytes, compiled, learns = settings
        # Under no_grad the inputs still say that they would need one.
        needs_hidden, needs_weight, needs_bias = (learns and n for n in ctx.needs_input_grad[:3])
        sums = torch.promote_types(dtype, torch.float32)
        weight_SD = weight_VD[:vocabulary].to(dtype)
        bias_S = None if bias_V is None else bias_V[:vocabulary].to(dtype)
        d_hidden_MD = torch.empty_like(hidden_MD) if needs_hidden else None
        d_weight_VD = torch.zeros_like(weight_VD, dtype=sums) if needs_weight else None
        d_bias_V = None
        if needs_bias and bias_V is not None:
            d_bias_V = torch.zeros_like(bias_V, dtype=sums)
        teacher = None
        if isinstance(signal, HiddenStates):
            trimmed = signal.kept_K is not None
            teacher = _Products(signal.head, asked if trimmed else vocabulary, dtype)
        loss = torch.zeros((), dtype=sums, device=hidden_MD.device)
        # Of a trimmed student, the teacher's logits are the larger ones.
        rows = chunk_rows(max(vocabulary, 0 if teacher is None else teacher.rows), chunk_bytes)
        for start in range(0, len(hidden_MD), rows):
            end = min(start + rows, len(hidden_MD))
            hidden_ND = hidden_MD[start:end].to(dtype)
            y_NV = torch.nn.functional.linear(hidden_ND, weight_SD, bias_S)
            # A cache's words come from the disk: a chunk at a time they go where the student is.
            part = signal.part(start, end).to(hidden_MD.device)
            loss_N, d_y_NV = _one_chunk(y_NV, part, divergence, head, teacher, compiled=compiled)
            loss += loss_N.sum(dtype=sums)
            if d_hidden_MD is not None:
                d_hidden_MD[start:end] = d_y_NV @ weight_SD
            if d_weight_VD is not None:
                for row in range(0, vocabulary, _WEIGHT_ROWS):
                    columns = slice(row, min(row + _WEIGHT_ROWS, vocabulary))
                    d_weight_VD[columns] += d_y_NV[:, columns].T @ hidden_ND
            if d_bias_V is not None:
                d_bias_V[:vocabulary] += d_y_NV.sum(0, dtype=sums)
        if d_weight_VD is not None:
            d_weight_VD = d_weight_VD.to(weight_VD.dtype)
        if d_bias_V is not None and bias_V is not None:
            d_bias_V = d_bias_V.to(bias_V.dtype)
        ctx.gradients = (d_hidden_MD, d_weight_VD, d_bias_V)
        return loss

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> Any:
        gradients = ctx.gradients
        ctx.gradients = None  # once only, like any graph that is not retained
        if gradients is None:
            raise RuntimeError("this loss has been differentiated already")
        return (*(None if g is None else g.mul_(outer.to(g.dtype)) for g in gradients), None)


class _Products:
    """The teacher's head, cut and cast once for all chunks."""

    def __init__(self, head: Head, vocabulary: int | None, dtype: torch.dtype):
        self.head, self.dtype = head, dtype
        self.weight_SD = head.weight_VD[:vocabulary].detach().to(dtype)
        bias_V = head.bias_V
        self.bias_S = None if bias_V is None else bias_V[:vocabulary].detach().to(dtype)
        self.rows = len(self.weight_SD)

    def __call__(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        hidden_ND = hidden_ND.detach().to(self.dtype)
        return torch.nn.functional.linear(hidden_ND, self.weight_SD, self.bias_S)


def _one_chunk(
    y_NV: torch.Tensor,
    signal: Signal,
    divergence: Divergence,
    head: Head,
    teacher: _Products | None,
    *,
    compiled: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(signal, HiddenStates) and teacher is not None:
        curves = head.curve, teacher.head.curve
        if signal.kept_K is not None:
            z_t_NV = teacher.head.curve.bend(kernels.wide(teacher(signal.hidden_MD)))
            z_t_NB = kernels.grouped(z_t_NV, signal.kept_K, divergence.temperature)
            return kernels.full(y_NV, z_t_NB, divergence, head.curve, Curve())
        if compiled:
            return kernels.compiled(divergence, *curves)(y_NV, teacher(signal.hidden_MD))
        return kernels.full(y_NV, teacher(signal.hidden_MD), divergence, *curves)
    if isinstance(signal, TopK):
        return kernels.buckets(y_NV, signal.ids_MK, signal.log_probs_MK, divergence, head.curve)
    assert isinstance(signal, Sampled)  # noqa: S101
    return kernels.sampled(
        y_NV, signal.ids_MK, signal.weights_MK, signal.entropy_M, divergence, head.curve
    )


def _check(
    hidden_MD: torch.Tensor,
    head: Head,
    signal: Signal,
    divergence: Divergence,
    reply_tokens: float,
    vocabulary: int | None,
) -> int:
    if not reply_tokens > 0:
        raise InputError(
            f"a loss over {reply_tokens} reply tokens",
            repair="divide by the reply tokens of the whole step; skip steps that have none",
        )
    if hidden_MD.shape[-1] != head.weight_VD.shape[1]:
        raise InputError(
            f"hidden states of width {hidden_MD.shape[-1]} for a head of {head.weight_VD.shape[1]}"
        )
    if len(signal) != len(hidden_MD):
        raise InputError(f"a signal of {len(signal)} positions for {len(hidden_MD)} hidden states")
    sizes = {head.vocabulary}
    if isinstance(signal, HiddenStates) and signal.kept_K is not None:
        return _check_trimmed(head, signal.head, signal.kept_K, vocabulary)
    if isinstance(signal, HiddenStates):
        sizes.add(signal.head.vocabulary)
    elif signal.temperature != divergence.temperature:
        raise InputError(
            f"the signal was taken at temperature {signal.temperature}, the loss is at "
            f"{divergence.temperature}",
            repair="use one temperature, or hidden states, which serve any",
        )
    if isinstance(signal, Sampled) and not divergence.linear:
        raise InputError(
            f"sampled ids give a biased {divergence.kind}",
            repair="use forward_kl, or a signal with hidden states or top-k",
        )
    if vocabulary is None and len(sizes) > 1:
        raise InputError(
            f"the heads have {' and '.join(map(str, sorted(sizes)))} rows",
            repair="give `vocabulary`: the number of ids that both tokenizers share",
        )
    if vocabulary is not None and not 1 <= vocabulary <= min(sizes):
        raise InputError(
            f"a shared vocabulary of {vocabulary} with heads of {sorted(sizes)} rows",
            repair=f"give at most {min(sizes)}",
        )
    return vocabulary or head.vocabulary


def _check_trimmed(head: Head, teacher: Head, kept_K: torch.Tensor, vocabulary: int | None) -> int:
    most = teacher.vocabulary if vocabulary is None else vocabulary
    if head.vocabulary != len(kept_K) + 1:
        raise InputError(
            f"a student's head of {head.vocabulary} rows for {len(kept_K)} kept ids and the tail",
            repair="open the student's tail (`stillhouse.students.open_tail`): one row more",
        )
    if not 1 <= most <= teacher.vocabulary or int(kept_K.max()) >= most or int(kept_K.min()) < 0:
        raise InputError(
            f"kept ids up to {int(kept_K.max())} of a teacher with {most} of"
            f" {teacher.vocabulary} rows"
        )
    return head.vocabulary
