"""The loss works where its tensors lie: nothing in it is bound to the processor.

torch's `meta` device has shapes and no numbers, and refuses to mix with the processor's tensors:
what passes there has no tensor of its own elsewhere. On a GPU, where there is one, the numbers are
compared as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.distill.divergences.promises import KINDS, drawn

from stillhouse.distill.divergences import (
    Curve,
    Divergence,
    Head,
    HiddenStates,
    LayerMap,
    Sampled,
    TopK,
    divergence_loss,
    hidden_state_loss,
)

M, V, D_S, D_T = 7, 40, 6, 5


def tensors(device: str, dtype: torch.dtype) -> tuple[torch.Tensor, Head, torch.Tensor, Head]:
    rng = np.random.default_rng(4)
    hidden, weight, states, theirs = (
        drawn(rng, *shape).to(device, dtype) for shape in ((M, D_S), (V, D_S), (M, D_T), (V, D_T))
    )
    ours = Head(weight_VD=weight.requires_grad_(), curve=Curve(scale=0.7, softcap=3.0))
    return hidden.requires_grad_(), ours, states, Head(weight_VD=theirs)


def signal(kind: str, states: torch.Tensor, head: Head) -> Any:
    """What a live teacher (on its device) or a cache (in ordinary memory) hands over."""
    if kind == "states":
        return HiddenStates(hidden_MD=states, head=head)
    if kind == "kept states":
        return HiddenStates(hidden_MD=states if states.is_meta else states.cpu(), head=head)
    ids = torch.stack([torch.randperm(V)[:4] for _ in range(M)])
    shares = torch.full((M, 4), 0.2)
    if kind == "top-k":
        return TopK(ids_MK=ids, log_probs_MK=shares.log())
    return Sampled(ids_MK=ids, weights_MK=shares + 0.05, entropy_M=torch.ones(M))


def run(
    device: str, dtype: torch.dtype, kind: str, options: dict[str, Any], *, compiled: bool = False
) -> list[torch.Tensor]:
    torch.manual_seed(2)
    hidden, ours, states, theirs = tensors(device, dtype)
    loss = divergence_loss(
        hidden,
        ours,
        signal(kind, states, theirs),
        Divergence(**options),
        reply_tokens=M,
        chunk_bytes=4 * V * 3,
        compiled=compiled,
    )
    loss.backward()
    found = [loss.detach(), hidden.grad, ours.weight_VD.grad]
    assert all(one is not None and one.device.type == device for one in found)
    return [one for one in found if one is not None]


WAYS = [("states", one) for one in KINDS if one["kind"] != "adaptive_kl"]
WAYS += [("top-k", {"kind": "jensen_shannon", "beta": 0.3}), ("sampled", {"kind": "forward_kl"})]


@pytest.mark.parametrize(("kind", "options"), WAYS, ids=str)
def test_no_tensor_is_made_on_the_processor_for_a_student_elsewhere(
    kind: str, options: dict[str, Any]
) -> None:
    run("meta", torch.float32, kind, options)


def test_a_tensor_on_the_processor_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sampled, "to", lambda self, _device: self)
    with pytest.raises(RuntimeError, match="device"):
        run("meta", torch.float32, "sampled", {"kind": "forward_kl"})


def test_hidden_state_terms_too() -> None:
    states = [torch.zeros(3, 4, device="meta", requires_grad=True) for _ in range(2)]
    loss = hidden_state_loss(states, states, LayerMap(((1, 1),)), "mse", reply_tokens=3)
    loss.backward()
    assert loss.device.type == "meta"


if torch.cuda.is_available():
    ON_A_GPU = [*WAYS, ("kept states", {"kind": "reverse_kl"}), ("states", {"kind": "adaptive_kl"})]

    @pytest.mark.parametrize(("kind", "options"), ON_A_GPU, ids=str)
    def test_a_gpu_gives_what_the_processor_gives(kind: str, options: dict[str, Any]) -> None:
        for ours, theirs in zip(
            run("cuda", torch.float64, kind, options), run("cpu", torch.float64, kind, options),
            strict=True,
        ):  # fmt: skip
            torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("compiled", [False, True])
    def test_bfloat16_on_a_gpu_stays_near(compiled: bool) -> None:
        options = {"kind": "forward_kl"}
        near = run("cuda", torch.bfloat16, "states", options, compiled=compiled)
        for ours, theirs in zip(near, run("cpu", torch.float64, "states", options), strict=True):
            torch.testing.assert_close(ours.cpu().double(), theirs, rtol=0.05, atol=0.02)
