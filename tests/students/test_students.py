"""Cutting, adapting and saving a student: the result is an ordinary model."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.ports import free_port

from stillhouse.exchanges import InputError, storage
from stillhouse.students import (
    add_adapter,
    block_influence,
    choose_layers,
    cut_depth,
    load_student,
    save_student,
)
from stillhouse.students.layers import _next_logprobs

Build = Callable[..., Any]
IDS = torch.tensor([[1, 20, 33, 47, 5, 99]])
PROMPTS = [[1, 20, 33], [4, 5, 6, 7, 8], [100, 101]]


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(IDS, use_cache=False).logits


def test_a_cut_model_computes_what_the_chosen_blocks_compute(tiny_model: Build) -> None:
    teacher = tiny_model(layers=5)
    student = cut_depth(teacher, [0, 2, 4])
    assert student.config.num_hidden_layers == 3
    assert [block.self_attn.layer_idx for block in student.model.layers] == [0, 1, 2]
    assert teacher.config.num_hidden_layers == len(teacher.model.layers) == 5
    skipped = tiny_model(layers=5)
    skipped.model.layers = torch.nn.ModuleList([skipped.model.layers[i] for i in (0, 2, 4)])
    skipped.config.num_hidden_layers = 3
    torch.testing.assert_close(logits(student), logits(skipped), rtol=0, atol=0)
    before = logits(teacher)
    with torch.no_grad():
        student.model.layers[0].mlp.up_proj.weight.zero_()
    torch.testing.assert_close(logits(teacher), before, rtol=0, atol=0)


def test_a_cut_model_generates_with_its_cache(tiny_model: Build) -> None:
    student = cut_depth(tiny_model(layers=4), [1, 3])
    cached = student.generate(IDS, max_new_tokens=6, do_sample=False)
    assert cached.tolist() == (
        student.generate(IDS, max_new_tokens=6, do_sample=False, use_cache=False).tolist()
    )


def test_lists_with_an_entry_per_layer_are_cut_with_the_layers() -> None:
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    config = transformers.Qwen2Config(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        layer_types=kinds,
        use_sliding_window=True,
        eos_token_id=[1, 2, 3, 4],
    )
    student = cut_depth(transformers.Qwen2ForCausalLM(config), [0, 1, 3])
    assert student.config.layer_types == [kinds[0], kinds[1], kinds[3]]
    assert student.config.eos_token_id == [1, 2, 3, 4]


@pytest.mark.parametrize("layers", [[], [1, 0], [0, 0], [0, 5], [-1, 2]])
def test_a_choice_that_is_not_increasing_and_in_range_is_refused(
    tiny_model: Build, layers: list[int]
) -> None:
    with pytest.raises(InputError, match="not increasing indices below 3"):
        cut_depth(tiny_model(layers=3), layers)


def test_a_block_that_passes_its_input_on_has_no_influence_and_goes_first(
    tiny_model: Build,
) -> None:
    teacher = tiny_model(layers=4)
    with torch.no_grad():
        teacher.model.layers[1].self_attn.o_proj.weight.zero_()
        teacher.model.layers[1].mlp.down_proj.weight.zero_()
    influence = block_influence(teacher, PROMPTS, batch_size=2)
    assert influence[1] == pytest.approx(0, abs=1e-6)
    assert (influence[[0, 2, 3]] > 0.01).all()
    choice = choose_layers(teacher, 3, PROMPTS, batch_size=2)
    assert (choice.layers, choice.rule) == ((0, 2, 3), "even")  # 0, 1.5 -> 2, 3
    assert choice.candidates["influence"] == (0, 2, 3)
    assert choice.divergence["influence"] == pytest.approx(0, abs=1e-6)
    assert choice.divergence["head"] > 0.01


def test_influence_and_divergence_do_not_see_the_padding(tiny_model: Build) -> None:
    teacher = tiny_model(layers=3)
    together = block_influence(teacher, PROMPTS, batch_size=3)
    alone = block_influence(teacher, PROMPTS, batch_size=1)
    assert together == pytest.approx(alone, rel=1e-5)
    torch.testing.assert_close(
        _next_logprobs(teacher, PROMPTS, 3),
        _next_logprobs(teacher, PROMPTS, 1),
        rtol=1e-5,
        atol=1e-5,
    )


def test_a_new_adapter_changes_nothing_and_a_trained_one_survives_merging(
    tiny_model: Build, tiny_tokenizer: Build, tmp_path: Path
) -> None:
    plain = logits(tiny_model())
    student = add_adapter(tiny_model(), rank=2, seed=1)
    torch.testing.assert_close(logits(student), plain, rtol=0, atol=0)
    trainable = {name for name, p in student.named_parameters() if p.requires_grad}
    assert trainable
    assert all("lora_" in name for name in trainable)
    assert not any("lm_head" in name for name in trainable)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    changed = logits(student)
    assert (changed - plain).abs().max() > 1e-3
    save_student(student, tiny_tokenizer(), tmp_path / "student")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    assert type(loaded) is transformers.LlamaForCausalLM
    torch.testing.assert_close(logits(loaded), changed, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits(student), changed, rtol=0, atol=0)  # not merged in place


def test_adapters_with_one_seed_are_equal(tiny_model: Build) -> None:
    first, same, other = (
        add_adapter(tiny_model(), rank=2, seed=seed).state_dict() for seed in (1, 1, 2)
    )
    a = [name for name in first if "lora_A" in name]
    assert all(torch.equal(first[name], same[name]) for name in a)
    assert not any(torch.equal(first[name], other[name]) for name in a)


def test_a_saved_student_is_an_ordinary_folder_with_its_template(
    tiny_model: Build, tiny_tokenizer: Build, tmp_path: Path
) -> None:
    student = cut_depth(tiny_model(layers=3), [0, 2])
    tokenizer = tiny_tokenizer()
    save_student(student, tokenizer, tmp_path / "run" / "student")
    names = {path.name for path in (tmp_path / "run" / "student").iterdir()}
    assert {"model.safetensors", "generation_config.json", "chat_template.jinja"} <= names
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "student")
    torch.testing.assert_close(logits(plain), logits(student), rtol=0, atol=0)
    model, again = load_student(tmp_path / "run" / "student")
    torch.testing.assert_close(logits(model), logits(student), rtol=0, atol=0)
    assert again.chat_template == tokenizer.chat_template
    assert again.encode("the film<|im_end|>") == tokenizer.encode("the film<|im_end|>")


def test_a_failed_save_leaves_nothing_and_a_second_one_is_refused(
    tiny_model: Build, tiny_tokenizer: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(name: str) -> None:
        if name.startswith("rename:"):
            raise KeyboardInterrupt

    monkeypatch.setattr(storage, "on_step", stop)
    with pytest.raises(KeyboardInterrupt):
        save_student(tiny_model(), tiny_tokenizer(), tmp_path / "student")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    save_student(tiny_model(), tiny_tokenizer(), tmp_path / "student")
    with pytest.raises(InputError, match="stands here already"):
        save_student(tiny_model(), tiny_tokenizer(), tmp_path / "student")


@pytest.mark.slow
def test_a_saved_student_answers_in_transformers_serve(
    tiny_model: Build, tiny_tokenizer: Build, tmp_path: Path
) -> None:
    folder = tmp_path / "student"
    save_student(cut_depth(tiny_model(layers=3), [0, 2]), tiny_tokenizer(), folder)
    port = free_port()
    log = (tmp_path / "serve.log").open("wb")
    server = subprocess.Popen(
        [
            *(str(Path(sys.executable).parent / "transformers"), "serve", str(folder)),
            *("--device", "cpu", "--host", "127.0.0.1", "--port", str(port)),
        ],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
        stdout=log,
        stderr=log,
    )
    try:
        body = {
            "model": str(folder),
            "messages": [{"role": "user", "content": "the film"}],
            "max_tokens": 5,
            "stream": False,
        }
        answer = _post(port, body, server)
    finally:
        server.terminate()
        server.wait(60)
        log.close()
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["usage"]["completion_tokens"] == 5


def _post(port: int, body: dict[str, Any], server: subprocess.Popen[bytes]) -> Any:
    """Send the request as soon as the server listens."""
    deadline = time.monotonic() + 180
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        try:
            connection.request(
                "POST",
                "/v1/chat/completions",
                json.dumps(body),
                {"Content-Type": "application/json"},
            )
            return json.load(connection.getresponse())
        except ConnectionRefusedError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.2)  # waiting for another process to listen; nothing is timed
        finally:
            connection.close()
