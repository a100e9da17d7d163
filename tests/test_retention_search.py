"""The search's own losses: the mixed target's gradient, and blocks refitted towards the teacher."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from benchmarks import retention_search
from benchmarks.retention import Document
from benchmarks.retention_search import Mixed, Search, Weights

from stillhouse.distill.divergences import packed_layers
from stillhouse.students import cut_depth


def test_a_mixed_target_is_the_sum_of_both_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: function)
    torch.manual_seed(0)
    head_VD, theirs_MD = torch.randn(11, 4), torch.randn(400, 4)  # more than one chunk
    ours_MD = torch.randn(400, 4, requires_grad=True)
    ids_M1 = torch.randint(11, (400, 1))
    loss: Any = Mixed.apply(  # type: ignore[no-untyped-call]
        ours_MD, theirs_MD, head_VD, ids_M1, Weights(tokens=0.3, kl=0.7, hidden=0.0)
    )
    (loss / 400).backward()
    again_MD = ours_MD.detach().double().requires_grad_()
    log_s_MV = torch.log_softmax(again_MD @ head_VD.T.double(), -1)
    log_t_MV = torch.log_softmax((theirs_MD @ head_VD.T).double(), -1)
    kl = torch.nn.functional.kl_div(log_s_MV, log_t_MV, reduction="sum", log_target=True)
    wanted = 0.7 * kl + 0.3 * torch.nn.functional.nll_loss(log_s_MV, ids_M1[:, 0], reduction="sum")
    (wanted / 400).backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert ours_MD.grad is not None
    assert again_MD.grad is not None
    assert torch.allclose(ours_MD.grad.double(), again_MD.grad, atol=1e-6)


def test_refitting_brings_the_blocks_behind_a_gap_nearer_to_the_teachers() -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=5,
        num_attention_heads=2, num_key_value_heads=2, initializer_range=0.3,
    )  # fmt: skip
    teacher = transformers.LlamaForCausalLM(config).eval().requires_grad_(requires_grad=False)
    cell: Any = object.__new__(Search)
    cell.guide, cell.layers, cell.dtype = teacher, [0, 2, 4], "float32"
    cell.student = cut_depth(teacher, cell.layers)
    draws = torch.randint(64, (40, 24))
    texts = [Document(str(i), tuple(ids), 24) for i, ids in enumerate(draws.tolist())]
    new = [text.ids for text in texts[30:]]
    first = cell.student.model.layers[0].self_attn.o_proj.weight.clone()

    def off() -> list[float]:
        with torch.no_grad():
            ours = packed_layers(cell.student, new, every=True)
            theirs = packed_layers(teacher, new, every=True)
        # Each block's output is to be the next one's input in the teacher.
        return [float((ours[a] - theirs[b]).norm() / theirs[b].norm()) for a, b in ((1, 2), (2, 4))]

    before = off()
    cell.refit(texts[:30], ridge=0.1)
    assert all(now < 0.95 * was for now, was in zip(off(), before, strict=True))
    assert torch.equal(cell.student.model.layers[0].self_attn.o_proj.weight, first)
    assert not cell.student.model.layers[0].mlp.down_proj._forward_pre_hooks
    assert retention_search.ASIDE < 0.5
