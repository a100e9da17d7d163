"""Width surgery: the cut model is the whole one with every other part set to zero."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.students.decoders import DECODERS, decoder

from stillhouse.exchanges import InputError
from stillhouse.students import (
    AGGREGATIONS,
    Shape,
    Units,
    Widths,
    choose_units,
    cut_width,
    measure_activations,
    save_student,
)
from stillhouse.students.activations import Aggregation

IDS = torch.tensor([[1, 20, 33, 47, 5, 90], [3, 3, 7, 64, 65, 66]])
TEXT = [[1, 20, 33, 47, 5], [3, 3, 7], [64, 65, 66, 67, 68, 69, 70]]


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(IDS, use_cache=False).logits


def whole(shape: Shape, **changes: Any) -> Units:
    every = {
        "heads": (tuple(range(shape.heads)),) * shape.layers,
        "kv_heads": (tuple(range(shape.kv_heads)),) * shape.layers,
        "neurons": (tuple(range(shape.feed_forward)),) * shape.layers,
        "channels": tuple(range(shape.hidden)),
    }
    return Units(**{**every, **changes})


def masked_logits(model: Any, units: Units) -> torch.Tensor:
    """The whole model's logits with everything outside `units` held at zero: the reference."""
    shape = Shape.of(model)
    handles = []

    def zero(count: int, kept: tuple[int, ...], size: int = 1) -> torch.Tensor:
        mask = torch.zeros(count)
        mask[list(kept)] = 1
        return mask.repeat_interleave(size)

    channels = zero(shape.hidden, units.channels)
    base = model.get_submodule("model")
    # Where only d of D channels are left, a norm adds its epsilon to a mean that is D / d as large.
    for module in (*base.modules(),):
        name = "variance_epsilon" if hasattr(module, "variance_epsilon") else "eps"
        if hasattr(module, name) and module.weight.shape == (shape.hidden,):
            setattr(module, name, getattr(module, name) * len(units.channels) / shape.hidden)

    def after(module: Any, mask: torch.Tensor) -> None:
        handles.append(module.register_forward_hook(lambda _m, _g, out: out * mask))

    def before(module: Any, mask: torch.Tensor) -> None:
        handles.append(module.register_forward_pre_hook(lambda _m, given: (given[0] * mask,)))

    after(base.embed_tokens, channels)
    for layer, block in enumerate(base.layers):
        before(block.self_attn.o_proj, zero(shape.heads, units.heads[layer], shape.head_size))
        before(block.mlp.down_proj, zero(shape.feed_forward, units.neurons[layer]))
        after(block.self_attn.o_proj, channels)
        after(block.mlp.down_proj, channels)
    try:
        return logits(model)
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("name", DECODERS)
def test_cutting_nothing_changes_nothing(name: str) -> None:
    model = decoder(name)
    cut = cut_width(model, whole(Shape.of(model)))
    torch.testing.assert_close(logits(cut), logits(model), rtol=0, atol=0)
    assert Shape.of(cut) == Shape.of(model)


@settings(max_examples=8, deadline=None)
@given(drawn=st.randoms(use_true_random=False))
@pytest.mark.parametrize("name", DECODERS)
def test_a_cut_model_computes_what_the_whole_one_does_with_the_rest_at_zero(
    name: str, drawn: random.Random
) -> None:
    model = decoder(name)
    shape = Shape.of(model)
    group = shape.heads // shape.kv_heads

    def some(whole: int, count: int) -> tuple[int, ...]:
        return tuple(sorted(drawn.sample(range(whole), count)))

    kv_count, share = drawn.randint(1, shape.kv_heads), drawn.randint(1, group)
    kv_heads = tuple(some(shape.kv_heads, kv_count) for _ in range(shape.layers))
    neuron_count = drawn.randint(1, shape.feed_forward)
    units = Units(
        kv_heads=kv_heads,
        heads=tuple(
            tuple(kv * group + one for kv in kept for one in some(group, share))
            for kept in kv_heads
        ),
        neurons=tuple(some(shape.feed_forward, neuron_count) for _ in range(shape.layers)),
        channels=some(shape.hidden, drawn.randint(4, shape.hidden)),
    )
    cut = cut_width(model, units)
    torch.testing.assert_close(logits(cut), masked_logits(model, units), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", DECODERS)
def test_the_cut_model_is_an_ordinary_folder(
    name: str, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    model = decoder(name)
    cut = cut_to(model, Widths(heads=2, kv_heads=1, feed_forward=7, hidden=16))
    save_student(cut, tiny_tokenizer(), tmp_path / "student")
    plain = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "student", attn_implementation="eager"
    )
    assert type(plain) is type(model)
    torch.testing.assert_close(logits(plain), logits(cut), rtol=0, atol=0)
    found = Shape.of(plain)
    assert (found.heads, found.kv_heads, found.feed_forward, found.hidden) == (2, 1, 7, 16)
    assert found.head_size == Shape.of(model).head_size
    assert found.tied == Shape.of(model).tied


def cut_to(model: Any, widths: Widths) -> Any:
    return cut_width(model, choose_units(model, widths, measure_activations(model, TEXT)))


@torch.no_grad()
@pytest.mark.parametrize("name", DECODERS)
def test_parts_that_do_nothing_score_nothing_and_go_first(name: str) -> None:
    model = decoder(name)
    shape = Shape.of(model)
    group = shape.heads // shape.kv_heads
    dead_channels, dead_kv, dead_neurons = [3, 17], 1, [0, 5, 19]
    base = model.get_submodule("model")
    base.embed_tokens.weight[:, dead_channels] = 0
    for block in base.layers:
        out = block.self_attn.o_proj.weight.view(-1, shape.heads, shape.head_size)
        out[:, dead_kv * group : (dead_kv + 1) * group] = 0
        block.mlp.down_proj.weight[:, dead_neurons] = 0
        for matrix in (block.self_attn.o_proj, block.mlp.down_proj):
            matrix.weight[dead_channels] = 0
            if matrix.bias is not None:
                matrix.bias[dead_channels] = 0
    scores = measure_activations(model, TEXT)
    assert (scores.channels == 0).nonzero()[0].tolist() == dead_channels
    for layer in range(shape.layers):
        assert (scores.neurons[layer] == 0).nonzero()[0].tolist() == dead_neurons
        assert (scores.heads[layer].reshape(-1, group) == 0).all(1).nonzero()[0].tolist() == [
            dead_kv
        ]
    before = logits(model)
    cut = cut_to(
        model,
        Widths(
            heads=shape.heads - group,
            feed_forward=shape.feed_forward - len(dead_neurons),
            hidden=shape.hidden - len(dead_channels),
        ),
    )
    torch.testing.assert_close(logits(cut), before, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(logits(model), before, rtol=0, atol=0)


def watch(module: Any, key: tuple[int, str], kept: dict[tuple[int, str], torch.Tensor]) -> None:
    module.register_forward_pre_hook(lambda _m, given: kept.__setitem__(key, given[0][0]))


AGGREGATED: dict[Aggregation, Callable[[list[np.ndarray]], np.ndarray]] = {
    "rms": lambda texts: np.sqrt((np.concatenate(texts) ** 2).mean(0)),
    "mean": lambda texts: np.concatenate(texts).mean(0),
    "rms_of_means": lambda texts: np.sqrt(np.mean([text.mean(0) ** 2 for text in texts], 0)),
}


@torch.no_grad()
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_scores_aggregate_the_sizes_of_what_a_part_hands_on(aggregation: Aggregation) -> None:
    model = decoder("llama with biases")
    shape = Shape.of(model)
    scores = measure_activations(model, TEXT, aggregation=aggregation, batch_size=2)
    sizes: dict[tuple[int, str], list[np.ndarray]] = defaultdict(list)
    for ids in TEXT:
        kept: dict[tuple[int, str], torch.Tensor] = {}
        for layer, block in enumerate(model.model.layers):
            for name, module in (
                ("heads", block.self_attn.o_proj),
                ("neurons", block.mlp.down_proj),
                ("q", block.self_attn.q_proj),
                ("gate", block.mlp.gate_proj),
            ):
                watch(module, (layer, name), kept)
        watch(model.lm_head, (shape.layers, "last"), kept)
        model(torch.tensor([ids]), use_cache=False)
        for layer, block in enumerate(model.model.layers):
            parts = kept[layer, "heads"].split(shape.head_size, -1)
            outs = block.self_attn.o_proj.weight.split(shape.head_size, -1)
            norms = [(part @ out.T).norm(dim=-1) for part, out in zip(parts, outs, strict=True)]
            sizes[layer, "heads"].append(torch.stack(norms, -1).numpy())
            outgoing = block.mlp.down_proj.weight.norm(dim=0)
            sizes[layer, "neurons"].append((kept[layer, "neurons"].abs() * outgoing).numpy())
        for key in [*kept]:
            if key[1] in ("q", "gate", "last"):
                sizes[key].append(kept[key].abs().numpy())
    assert scores.tokens == sum(map(len, TEXT))
    aggregate = AGGREGATED[aggregation]
    for layer in range(shape.layers):
        for name in ("heads", "neurons"):
            found = getattr(scores, name)[layer]
            np.testing.assert_allclose(found, aggregate(sizes[layer, name]), rtol=1e-4)
    reads = [aggregate(found) for key, found in sizes.items() if key[1] in ("q", "gate", "last")]
    assert len(reads) == 2 * shape.layers + 1
    expected = np.mean(reads, 0) if aggregation == "mean" else np.sqrt(np.mean(np.square(reads), 0))
    np.testing.assert_allclose(scores.channels, expected, rtol=1e-4)


def test_aggregations_differ_in_what_they_keep() -> None:
    model = decoder("llama")
    scores = [measure_activations(model, TEXT, aggregation=name) for name in AGGREGATIONS]
    widths = Widths(heads=2, feed_forward=8, hidden=8)
    kept = [choose_units(model, widths, one) for one in scores]
    assert len({one.channels for one in kept}) > 1 or len({one.neurons for one in kept}) > 1


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_scores_do_not_see_the_padding(aggregation: Aggregation) -> None:
    model = decoder("gemma2")
    together, alone = (
        measure_activations(model, TEXT, aggregation=aggregation, batch_size=size)
        for size in (3, 1)
    )
    for name in ("heads", "neurons", "channels"):
        np.testing.assert_allclose(getattr(together, name), getattr(alone, name), rtol=1e-4)


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        (Widths(heads=4), (4, 2)),  # two groups of two
        (Widths(heads=3), (3, 3)),  # one head of each group
        (Widths(heads=2, kv_heads=2), (2, 2)),
        (Widths(kv_heads=3), (6, 3)),
        (Widths(), (6, 3)),
    ],
)
def test_heads_are_dropped_by_whole_groups_where_that_fits(
    wanted: Widths, kept: tuple[int, int]
) -> None:
    left = wanted.of(Shape.of(decoder("llama")))
    assert (left.heads, left.kv_heads) == kept


@pytest.mark.parametrize(
    ("wanted", "message", "repair"),
    [
        (Widths(heads=5), "5 query heads cannot share 3 key-value heads", r"\[2, 3, 4, 6\]"),
        (Widths(heads=6, kv_heads=2), "6 query heads cannot share 2", r"\[2, 4\]"),
        (Widths(heads=7), "cannot keep 7 of 6", "keep 1 to 6"),
        (Widths(hidden=0), "cannot keep 0 of 24", "keep 1 to 24"),
        (Widths(feed_forward=21), "cannot keep 21 of 20", "keep 1 to 20"),
    ],
)
def test_widths_that_cannot_be_are_refused_with_those_that_can(
    wanted: Widths, message: str, repair: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        wanted.of(Shape.of(decoder("llama")))
    assert error.match(repair)


def test_units_that_mix_groups_are_refused() -> None:
    model = decoder("llama")
    shape = Shape.of(model)
    mixed = whole(shape, heads=((0, 1, 2), (0, 1, 2)))
    with pytest.raises(InputError, match="do not share"):
        cut_width(model, mixed)
    with pytest.raises(InputError, match="increasing indices below 24"):
        cut_width(model, whole(shape, channels=(3, 3)))
    with pytest.raises(InputError, match="one size"):
        cut_width(model, whole(shape, neurons=((0,), (0, 1))))


def test_other_architectures_are_refused_by_name() -> None:
    config = transformers.GPT2Config(
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=16,
        vocab_size=32,
        bos_token_id=1,
        eos_token_id=2,
    )
    with pytest.raises(InputError, match=r"(?s)'gpt2' \(GPT2LMHeadModel\).*repair.*llama"):
        measure_activations(transformers.GPT2LMHeadModel(config), TEXT)


def test_scores_need_text() -> None:
    with pytest.raises(InputError, match="training text"):
        measure_activations(decoder("llama"), [[]])


def test_an_aggregation_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(InputError, match=r"(?s)by 'median'.*rms, mean, rms_of_means"):
        measure_activations(decoder("llama"), TEXT, aggregation="median")  # type: ignore[arg-type]


MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "norms keep their weights": lambda patch: patch.setattr(
        "stillhouse.students.width._Cutter._norm", lambda self, t, _gain: t[self.channels]
    ),
    "heads are taken by neurons": lambda patch: patch.setattr(
        "stillhouse.students.width._Cutter._head_rows",
        lambda self, heads: torch.arange(len(heads) * self.shape.head_size),
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_reference_notices_a_wrong_cut(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoder("llama")
    shape = Shape.of(model)
    units = whole(
        shape,
        heads=((2, 3), (4, 5)),
        kv_heads=((1,), (2,)),
        channels=tuple(range(1, shape.hidden, 2)),
    )
    MUTANTS[mutant](monkeypatch)
    cut = cut_width(model, units)
    assert (logits(cut) - masked_logits(model, units)).abs().max() > 0.01
