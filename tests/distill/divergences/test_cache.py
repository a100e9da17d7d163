"""The teacher cache: unbiased, small, checked, resumable to the byte, honest about what it lost."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.distill.divergences import cache_run, oracle

from stillhouse.distill.divergences import (
    Divergence,
    Head,
    HiddenStates,
    Payload,
    Sampled,
    TeacherCache,
    TopK,
    build_cache,
    cache,
    divergence_loss,
    measure_fidelity,
    sample_ids,
)
from stillhouse.distill.divergences.sampling import drawn_independently
from stillhouse.exchanges import InputError

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(cache, "BLOCK_POSITIONS", 20)


def peaked(rng: np.random.Generator, rows: int, vocabulary: int) -> Any:
    return oracle.softmax(rng.normal(size=(rows, vocabulary)) * 3)


def test_sampled_weights_have_the_distribution_as_their_mean() -> None:
    rng = np.random.default_rng(1)
    t = peaked(rng, 1, 30)
    draws = 40_000
    many = torch.from_numpy(np.repeat(t, draws, 0))
    ids, weights = sample_ids(many, torch.from_numpy(rng.random(draws)), 6)
    dense = torch.zeros(draws, 30, dtype=torch.float64).scatter_add_(-1, ids, weights)
    # Systematic draws: an id's frequency is exact up to the numbers drawn.
    error = np.sqrt(dense.var(0).numpy() / draws)
    assert (np.abs(dense.mean(0).numpy() - t[0]) <= 4.5 * error + 1e-9).all()
    assert torch.allclose(weights.sum(-1), torch.ones(draws, dtype=torch.float64))
    assert all(len(set(row)) == 6 for row in ids[:200].tolist())


def test_they_vary_less_than_independent_draws() -> None:
    rng = np.random.default_rng(2)
    t = torch.from_numpy(np.repeat(peaked(rng, 20, 50), 200, 0))
    ids, weights = sample_ids(t, torch.from_numpy(rng.random(len(t))), 8)
    ours = torch.zeros_like(t).scatter_add_(-1, ids, weights)
    ids, weights = drawn_independently(t, torch.Generator().manual_seed(1), 8)
    theirs = torch.zeros_like(t).scatter_add_(-1, ids, weights)
    assert float((ours - t).pow(2).sum()) < 0.5 * float((theirs - t).pow(2).sum())


@pytest.mark.parametrize(
    "row",
    [[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.25] * 4, [0.97, 0.01, 0.01, 0.01]],
    ids=str,
)
def test_certain_and_even_distributions_can_be_sampled(row: list[float]) -> None:
    for uniform in (0.0, 0.5, 1 - 1e-16):
        ids, weights = sample_ids(torch.tensor([row]), torch.tensor([uniform]), 3)
        assert float(weights.sum()) == pytest.approx(1.0, abs=1e-6)
        assert len(set(ids[0].tolist())) == 3
        assert all(row[i] > 0 or w == 0 for i, w in zip(ids[0].tolist(), weights[0], strict=True))


def test_what_is_read_back_from_bytes_is_unbiased_too() -> None:
    rng = np.random.default_rng(3)
    hidden = torch.from_numpy(rng.normal(size=(1, 6))).float() * 1.5
    head = Head(weight_VD=torch.from_numpy(rng.normal(size=(40, 6))).float())
    payload = Payload(kind="sampled", size=8, vocabulary=40)
    draws = 20_000
    records, _ = payload.encode(hidden.repeat(draws, 1), head, rng)
    assert records.shape == (draws, payload.record_bytes)
    signal = payload.decode(records)
    assert isinstance(signal, Sampled)
    dense = torch.zeros(draws, 40).scatter_add_(-1, signal.ids_MK, signal.weights_MK)
    t = oracle.softmax(head.logits(hidden).double().numpy())[0]
    error = np.sqrt(dense.double().var(0).numpy() / draws)
    assert (np.abs(dense.double().mean(0).numpy() - t) <= 4.5 * error + 1e-6).all()
    assert signal.entropy_M is not None
    entropy = -(t * np.log(t)).sum()
    assert signal.entropy_M.numpy() == pytest.approx(entropy, rel=2e-3)


def test_a_position_takes_at_most_forty_bytes_at_the_size_of_smollm2() -> None:
    assert Payload(kind="sampled", size=12, vocabulary=49_152).record_bytes == 37
    assert Payload(kind="top_k", size=50, vocabulary=49_152).record_bytes == 200
    assert Payload(kind="hidden", size=576, vocabulary=49_152).record_bytes == 1152
    assert Payload(kind="sampled", size=12, vocabulary=151_936).record_bytes == 61


@pytest.mark.parametrize(("kind", "size"), [("sampled", 6), ("top_k", 6), ("hidden", 5)])
def test_a_cache_gives_back_what_was_put_in(kind: Any, size: int, tmp_path: Path) -> None:
    path = tmp_path / "teacher.cache"
    built = cache_run.build(path, cache_run.key(kind, size))
    read = TeacherCache.open(path, cache_run.key(kind, size))
    assert built.positions == read.positions == sum(cache_run.counts())
    assert path.stat().st_size == read.layout.size
    head = cache_run.head()
    for examples in ([0], [22, 3, 3, 11], list(range(len(read)))):
        signal = read.signal(examples, head=head)
        hidden = torch.cat([cache_run.states_of(range(i, i + 1)) for i in examples])
        assert len(signal) == len(hidden)
        t = torch.softmax(head.logits(hidden), -1)
        if isinstance(signal, HiddenStates):
            torch.testing.assert_close(signal.hidden_MD, hidden.bfloat16())
        elif isinstance(signal, TopK):
            kept = t.gather(-1, signal.ids_MK)
            torch.testing.assert_close(signal.log_probs_MK.exp(), kept, rtol=5e-3, atol=1e-4)
            torch.testing.assert_close(kept.sum(-1), t.topk(6).values.sum(-1))
        else:
            torch.testing.assert_close(signal.weights_MK.sum(-1), torch.ones(len(hidden)))
        loss = divergence_loss(
            hidden, head, signal, Divergence(), reply_tokens=len(hidden), dtype=torch.float32
        )
        assert float(loss) < 0.3  # the student is the teacher here


def test_fidelity_is_measured_and_ranks_the_payloads(tmp_path: Path) -> None:
    found = {}
    for kind, size in (("top_k", 2), ("top_k", 20), ("hidden", 5)):
        made = cache_run.build(tmp_path / f"{kind}{size}", cache_run.key(kind, size))
        header = json.loads((tmp_path / f"{kind}{size}").read_bytes()[: cache.HEADER_BYTES])
        assert header["fidelity"]["gradient_cosine"] == made.fidelity.gradient_cosine
        found[kind, size] = made.fidelity
    few, many, hidden = found.values()
    assert few.gradient_cosine < many.gradient_cosine < hidden.gradient_cosine
    assert hidden.gradient_cosine > 0.999
    assert few.kl_nats > many.kl_nats > hidden.kl_nats >= 0


def test_exact_signals_have_perfect_fidelity() -> None:
    hidden, head = cache_run.states_of(range(3)), cache_run.head()
    payload = Payload(kind="hidden", size=5, vocabulary=cache_run.VOCABULARY)
    measured = measure_fidelity(HiddenStates(hidden_MD=hidden, head=head), hidden, head, payload)
    assert measured.gradient_cosine == pytest.approx(1.0, abs=1e-6)
    assert measured.kl_nats == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    "changed",
    [
        {"teacher": "x" * 64},
        {"template": "x" * 64},
        {"data": "x" * 64},
        {"seed": 1},
        {"payload": Payload(kind="sampled", size=6, vocabulary=60, temperature=2.0)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_cache_of_anything_else_is_refused(changed: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "teacher.cache"
    cache_run.build(path)
    with pytest.raises(InputError, match=f"another {next(iter(changed))}"):
        TeacherCache.open(path, cache_run.key(**changed))
    with pytest.raises(InputError, match="another"):
        cache_run.build(path, cache_run.key(**changed))


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "teacher.cache"
    size = cache_run.build(path).layout.size
    whole = path.read_bytes()
    rng = random.Random(5)
    begin = cache.HEADER_BYTES
    for place in [
        begin,
        begin + 4 * 23,
        size - 1,
        *(rng.randrange(begin, size) for _ in range(40)),
    ]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged"):
            TeacherCache.open(path, cache_run.key()).signal(range(23))
    for cut in (0, 100, begin, size - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match="damaged"):
            TeacherCache.open(path, cache_run.key())
    with pytest.raises(InputError, match="no teacher cache"):
        TeacherCache.open(tmp_path / "other", cache_run.key())


def test_states_that_do_not_fit_their_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="states for"):
        build_cache(
            tmp_path / "c",
            cache_run.key(),
            cache_run.counts(),
            lambda examples: cache_run.states_of(examples)[1:],
            cache_run.head(),
        )


def test_killed_at_any_time_it_ends_with_the_bytes_of_an_undisturbed_run() -> None:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
    rng = random.Random(3)
    runs: list[list[list[Any]]] = [[]]
    runs += [[["event", i]] for i in range(1, 30)]
    runs += [[["torn", i]] for i in range(1, 8)]
    runs += [[["torn", 2], ["event", 5], ["torn", 1], ["event", 2]]]
    runs += [[["after", rng.uniform(0.0, 0.03)] for _ in range(25)]]
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tests.distill.divergences.cache_run", folder, json.dumps(runs)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    undisturbed = found["0"]
    assert {name.split(":")[0] for name in undisturbed["events"]} >= {"write", "fsync", "rename"}
    assert len(undisturbed["events"]) < 30, "every step is killed at"
    killed = 0
    for number, run in found.items():
        killed += sum(code == -9 for code in run["codes"][:-1])
        assert set(run["codes"]) <= {0, -9}
        assert run["codes"][-1] == 0
        assert run["bytes"] == undisturbed["bytes"], runs[int(number)]
        assert run["left"] == [".lock", "teacher.cache", "teacher.events"]
    assert killed >= len(undisturbed["events"]) + 7
    resumed = [run for run in found.values() if len(run["events"]) < len(undisturbed["events"])]
    assert resumed, "no run went on where it was left"
