"""Whole runs whose student learns the teacher's distributions: trained, compared, reported."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from tests.distill.run_orders import RECORDED
from tests.distill.whitebox_task import LOCAL, write_whitebox_task

from stillhouse.distill import Recipe, fitting, read_recipe, run_recipe
from stillhouse.distill.run import Run, reading_us
from stillhouse.distill.whitebox import work_over_plain
from stillhouse.exchanges import InputError, iterate_journal
from stillhouse.teachers.local import LocalModel

Task = Callable[..., Recipe]


@pytest.fixture
def task(
    tmp_path: Path,
    tiny_model: Callable[..., Any],
    tiny_tokenizer: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Task:
    monkeypatch.setattr(fitting, "PROBE_S", 0.0)

    def write(divergence: str, teacher: str = LOCAL, **changes: str) -> Recipe:
        model, tokenizer = tiny_model(), tiny_tokenizer()
        return read_recipe(
            write_whitebox_task(tmp_path, model, tokenizer, divergence, teacher=teacher, **changes)
        )

    return write


def read(folder: Path, name: str) -> Any:
    return orjson.loads((folder / name).read_bytes())


def test_the_judgement_and_the_report_say_how_a_student_learned(task: Task, tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = task("{source: cache, keep: top_k, ids: 50}")
    run_recipe(recipe, folder=run)
    judgement = read(run, "judge/judgement.json")
    assert "plain" in [sheet["name"] for sheet in judgement["sheets"]]
    pairs = [(one["left"], one["right"]) for one in judgement["comparisons"]]
    assert ("student", "plain") in pairs, "plain training at equal compute stands beside it"
    facts = read(run, "report/report.json")["data"]
    assert facts["trained by"] == (
        "forward KL to the teacher's distribution at temperature 1; "
        "cache of the 50 likeliest ids a token and one bucket"
    )
    page = (run / "report/report.html").read_text()
    assert "the same student by plain training on replies" in page
    assert "50 likeliest ids" in page
    white, plain = (read(run, f"train/{name}/result.json") for name in ("seed-1", "plain"))
    again = Run(recipe, run)
    assert plain["steps"] == round(white["steps"] * work_over_plain(again, white)) > white["steps"]
    spent = [record["us"] for record in iterate_journal(run / "label/replies.journal")]
    assert reading_us(again) > 0
    training = read(run, "judge/cost.json")["training"]
    assert training["labelling_us"] == sum(spent) + reading_us(again), "reading is the teacher's"
    kept = sum(path.stat().st_size - 4096 for path in (run / "train/teacher").glob("*.cache"))
    # Replies are foreseen at their longest; those of an untrained model read as more tokens.
    assert again.plan["cache_bytes"] == pytest.approx(kept, rel=0.4)


def test_the_teachers_reading_is_timed_over_all_attempts(task: Task, tmp_path: Path) -> None:
    run, recipe = tmp_path / "run", task("{source: cache}")
    run_recipe(recipe, folder=run, until="train")
    first = reading_us(Run(recipe, run))
    (run / "train/done.json").unlink()
    (run / "train/teacher/validation.cache").unlink()  # as if killed before this one was begun
    run_recipe(recipe, folder=run, until="train")
    second = reading_us(Run(recipe, run))
    assert second > first
    (run / "train/done.json").unlink()
    run_recipe(recipe, folder=run, until="train")
    assert reading_us(Run(recipe, run)) == second, "caches that stand are opened, not read again"


@pytest.mark.parametrize(
    "divergence",
    [
        "{}",
        "{kind: jensen_shannon, beta: 0.3, temperature: 2.0, hidden_states: cosine}",
        "{source: cache}",
        "{source: cache, keep: hidden, kind: reverse_kl, packing: false}",
        "{source: cache, keep: top_k, ids: 50, kind: adaptive_kl}",
    ],
)
def test_every_source_trains_towards_the_teacher(
    task: Task, tmp_path: Path, divergence: str
) -> None:
    run = tmp_path / "run"
    run_recipe(task(divergence, **{"steps: 4": "steps: 12"}), folder=run, until="train")
    curve = read(run, "train/seed-1/result.json")["curve"]
    assert curve[-1]["validation_loss"] < curve[0]["validation_loss"]
    assert all(point["bits_per_byte"] > 0 for point in curve)


def test_the_loss_is_the_divergence_of_whole_distributions(task: Task, tmp_path: Path) -> None:
    """The first validation point against plain transformers, one reply at a time."""
    run = tmp_path / "run"
    steps = {"steps: 4": "steps: 1", "evaluate_every: 2": "evaluate_every: 1"}
    recipe = task("{temperature: 1.5}", **steps)
    run_recipe(recipe, folder=run, until="train")
    (point,) = read(run, "train/seed-1/result.json")["curve"]
    again = Run(recipe, run)
    teacher = LocalModel.load(tmp_path / "small-model")
    student = LocalModel.load(run / "train/seed-1/student")
    targets = {
        line["id"]: line
        for line in map(orjson.loads, (run / "curate/targets.jsonl").read_bytes().splitlines())
    }
    total = nats = 0.0
    count = written = 0
    for item in again.splits.validation.items:
        target = targets[item.id]
        prompt = teacher.template.prompt(item.messages, item.id)
        before = teacher.template.encode(prompt)
        after = teacher.template.reply_ids(
            prompt, before, target["reply"], complete=target["complete"], name=item.id
        )
        ids = torch.tensor([[*before, *after]])
        with torch.no_grad():
            z_t, z_s = (
                # Rows of the heads that no id of the tokenizer has are padding.
                m.model(ids).logits[0, len(before) - 1 : -1, : len(teacher.tokenizer)]
                for m in (teacher, student)
            )
        log_t, log_s = torch.log_softmax(z_t / 1.5, -1), torch.log_softmax(z_s / 1.5, -1)
        total += float((log_t.exp() * (log_t - log_s)).sum())
        nats -= float(torch.log_softmax(z_s, -1).gather(1, ids[0, len(before) :, None]).sum())
        count, written = count + len(after), written + len(target["reply"].encode())
    assert point["validation_loss"] == pytest.approx(total / count, rel=1e-4)
    assert point["bits_per_byte"] == pytest.approx(nats / math.log(2) / written, rel=1e-4)


def test_distributions_over_recorded_replies(task: Task, tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = task("{model: small-model}", teacher=RECORDED)
    run_recipe(recipe, folder=run, until="train")
    assert (run / "train/seed-1/student/model.safetensors").exists()


def test_adapters_learn_distributions_too(task: Task, tmp_path: Path) -> None:
    recipe = task("{}", **{"layers: 1, choose: even": "lora_rank: 4"})
    run_recipe(recipe, folder=tmp_path / "run", until="train")
    assert (tmp_path / "run/train/seed-1/student/model.safetensors").exists()


def test_two_processes_train_the_student_of_one(task: Task, tmp_path: Path) -> None:
    more = {"dtype: float32, eval": "processes: 2, shard: true, dtype: float32, eval"}
    for folder, change in (("one", {}), ("two", more)):
        run_recipe(task("{}", **change), folder=tmp_path / folder, until="train")
    one, two = (read(tmp_path, f"{name}/train/seed-1/result.json") for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == ([1], [2])
    for ours, theirs in zip(two["curve"], one["curve"], strict=True):
        assert ours["validation_loss"] == pytest.approx(theirs["validation_loss"], abs=1e-5)


def test_torchrun_starts_several_of_the_program(task: Task, tmp_path: Path) -> None:
    task("{source: cache}")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
    ]
    command += [
        "-m",
        "--",
        "stillhouse",
        "distill",
        "recipe.yaml",
        "--run",
        "run",
        "--until",
        "train",
    ]
    done = subprocess.run(
        [*command, "--json", "--quiet"],
        cwd=tmp_path,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert orjson.loads(done.stdout)["run"] == "run", "only the first one speaks"
    assert read(tmp_path, "run/train/seed-1/result.json")["processes"] == [2]
    assert read(tmp_path, "run/train/plain/result.json")["processes"] == [2]


def refuse(recipe: Recipe, folder: Path) -> InputError:
    with pytest.raises(InputError) as refused:
        run_recipe(recipe, folder=folder, until="plan")
    assert refused.value.repair
    return refused.value


def test_plan_refuses_a_teacher_that_gives_words_alone(task: Task, tmp_path: Path) -> None:
    refused = refuse(task("{}", teacher=RECORDED), tmp_path / "run")
    assert "train.divergence.model" in str(refused.repair)


def test_plan_refuses_other_vocabularies_and_templates(
    task: Task, tmp_path: Path, tiny_model: Callable[..., Any], tiny_tokenizer: Callable[..., Any]
) -> None:
    from stillhouse.students import save_student

    other = tiny_tokenizer()
    other.add_tokens(["<extra>"])
    save_student(tiny_model(seed=3), other, tmp_path / "other")
    recipe = task("{}", **{"start: small-model": "start: other"})
    assert "<extra>" in refuse(recipe, tmp_path / "run").message
    save_student(tiny_model(seed=3), tiny_tokenizer("{{ messages[0].content }}"), tmp_path / "bare")
    recipe = task("{}", **{"start: small-model": "start: bare"})
    assert "other chat templates" in refuse(recipe, tmp_path / "run-2").message


def test_plan_refuses_a_head_with_too_few_rows_and_takes_one_with_padding(
    task: Task, tmp_path: Path, tiny_model: Callable[..., Any], tiny_tokenizer: Callable[..., Any]
) -> None:
    from stillhouse.students import save_student

    few = len(tiny_tokenizer()) - 2
    for name, rows in (("few", few), ("padded", 384)):
        model = tiny_model(seed=3)
        model.resize_token_embeddings(rows, mean_resizing=False)
        save_student(model, tiny_tokenizer(), tmp_path / name)
    recipe = task("{}", **{"start: small-model": "start: few"})
    assert f"{few} rows" in refuse(recipe, tmp_path / "run").message
    recipe = task("{}", **{"start: small-model": "start: padded"})
    run_recipe(recipe, folder=tmp_path / "run-2", until="train")


def test_plan_refuses_hidden_states_of_another_width(
    task: Task, tmp_path: Path, tiny_tokenizer: Callable[..., Any]
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from stillhouse.students import save_student

    config = LlamaConfig(
        vocab_size=330,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=2,
        pad_token_id=0,
    )
    save_student(LlamaForCausalLM(config).eval(), tiny_tokenizer(), tmp_path / "narrow")
    recipe = task("{hidden_states: mse}", **{"start: small-model": "start: narrow"})
    assert "width 32" in refuse(recipe, tmp_path / "run").message
    recipe = task("{}", **{"start: small-model": "start: narrow"})
    run_recipe(recipe, folder=tmp_path / "run-2", until="train")


@pytest.mark.parametrize(
    ("divergence", "said"),
    [
        ("{source: cache, kind: reverse_kl}", "biased"),
        ("{source: cache, hidden_states: mse}", "inner layers"),
        ("{ids: 0}", "ids 0"),
        ("{kind: kl}", "forward_kl"),
    ],
)
def test_what_cannot_be_is_refused_while_reading(task: Task, divergence: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        task(divergence)


def test_plan_refuses_a_parameter_of_another_divergence(task: Task, tmp_path: Path) -> None:
    assert "has no beta" in refuse(task("{beta: 0.3}"), tmp_path / "run").message
