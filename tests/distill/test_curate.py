"""What may train is kept in order; everything else is counted, shown and never lost silently."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from stillhouse.distill.curate import CurateConfig, Curated, curate, decontaminate
from stillhouse.distill.curation import RULES
from stillhouse.distill.duplicates import find_duplicates
from stillhouse.exchanges import InputError
from stillhouse.parity.items import Item, Task, TestSplit, TrainSplit, ValidationSplit
from stillhouse.teachers.admissible import ReplyPolicy
from stillhouse.teachers.chat import Failure, FinishReason, Message, Reply

TEXT = Task(kind="text")
LABEL = Task(kind="label", labels=("positive", "negative"))
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"total": {"type": "number"}, "day": {"type": "string", "format": "date"}},
        "required": ["total"],
        "additionalProperties": False,
    }
)
JSON = Task(kind="json", schema=SCHEMA)
WORDS = ["the", "of", "kettle", "harbour", "lantern", "copper", "orchard", "velvet", "marble"]


def item(name: str, text: str) -> Item:
    return Item(id=name, messages=(Message("user", text),), variable=text, group=name)


def texts(count: int, seed: int = 0, words: int = 14) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        " ".join(f"{w}{rng.integers(40)}x" for w in rng.choice(WORDS, words)) for _ in range(count)
    ]


def split(prompts: list[str]) -> TrainSplit:
    return TrainSplit(tuple(item(f"i{n}", text) for n, text in enumerate(prompts)))


def reply(text: str, finish_reason: FinishReason = "stop") -> Reply:
    return Reply(text=text, finish_reason=finish_reason, model="m")


def curated(
    answers: list[Reply | Failure],
    task: Task = TEXT,
    prompts: list[str] | None = None,
    **config: object,
) -> Curated:
    train = split(prompts or texts(len(answers)))
    replies = {f"i{n}": answer for n, answer in enumerate(answers)}
    return curate(train, replies, task=task, config=CurateConfig(**config))  # type: ignore[arg-type]


def counts(result: Curated) -> dict[str, int]:
    return {rule: found.count for rule, found in result.report.dropped.items()}


def test_every_item_is_kept_or_counted_once_in_the_items_order() -> None:
    result = curated(
        [
            reply("A good answer."),
            reply("cut off in the", "length"),
            Failure(code="timeout", message="no reply in time"),
            reply("I'm sorry, but I cannot help with that."),
            reply("  "),
            reply("Another."),
        ]
    )
    assert [i.id for i in result.train.items] == ["i0", "i5"]
    assert counts(result) == {"no_reply": 1, "finish_reason": 1, "empty": 1, "refusal": 1}
    assert result.report.kept + sum(counts(result).values()) == result.report.items == 6
    shown = result.report.dropped["refusal"].examples[0]
    assert (shown.id, shown.text[:9]) == ("i3", "I'm sorry")
    for line in ("2 of 6 items train", "1 dropped: the reply opens like a refusal"):
        assert line in result.report.summary()


def test_items_without_a_reply_are_counted() -> None:
    train = split(texts(2))
    result = curate(train, {"i1": reply("x")}, task=TEXT, config=CurateConfig())
    assert counts(result) == {"no_reply": 1}


def test_a_cut_reply_trains_only_when_the_recipe_allows_it_and_is_never_ended() -> None:
    answers: list[Reply | Failure] = [reply("whole"), reply("cut", "length")]
    assert [i.id for i in curated(answers).train.items] == ["i0"]
    allowed = curated(answers, allow=("length",))
    assert [t.complete for t in allowed.targets.values()] == [True, False]


@pytest.mark.parametrize("reason", ["length", "content_filter", "unknown"])
def test_only_stop_and_tool_calls_train_by_default(reason: FinishReason) -> None:
    result = curated([reply("a", reason), reply("b", "tool_calls")])
    assert counts(result) == {"finish_reason": 1}


def test_refusals_stay_in_label_tasks_and_where_the_recipe_keeps_them() -> None:
    no = "I cannot say."
    task = Task(kind="label", labels=(no, "yes"))
    assert curated([reply(no), reply("yes")], task).report.kept == 2
    assert curated([reply(no), reply("yes")], refusals="keep").report.kept == 2
    assert curated([reply(no), reply("yes")]).report.kept == 1


def test_labels_are_written_as_the_task_writes_them() -> None:
    result = curated([reply(" Positive"), reply("negative, I think"), reply("no idea")], LABEL)
    assert {k: t.reply for k, t in result.targets.items()} == {"i0": "positive"}
    assert counts(result) == {"not_a_label": 2}
    assert result.report.answers == {"positive": 1, "negative": 0}
    first = curated([reply("negative, I think")], LABEL, label_rule="first_word")
    assert first.targets["i0"].reply == "negative"


def test_scored_labels_train_on_the_best_one_with_all_scores() -> None:
    scored = replace(reply("positive"), label_scores=(-3.0, -0.1))
    target = curated([scored], LABEL).targets["i0"]
    assert (target.reply, target.label_scores) == ("negative", (-3.0, -0.1))


def test_documents_must_be_json_and_fit_the_schema() -> None:
    answers: list[Reply | Failure] = [
        reply('{"total": 5, "day": "2026-03-14"}'),
        reply("Total: 5"),
        reply('{"total": "5"}'),
        reply('{"total": 5, "day": "14.3.2026"}'),
    ]
    result = curated(answers, JSON)
    assert [i.id for i in result.train.items] == ["i0"]
    assert counts(result) == {"not_json": 1, "schema": 2}
    details = [dropped.detail for dropped in result.report.dropped["schema"].examples]
    assert details[0].startswith("$.total: ")
    assert details[1].startswith("$.day: ")
    assert curated(answers, JSON, check_schema=False).report.kept == 3


def test_a_schema_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="not a JSON Schema"):
        curated([reply("{}")], Task(kind="json", schema='{"type": 5}'))


def test_a_pattern_must_match_the_whole_reply() -> None:
    result = curated([reply("yes\n"), reply("yes, but"), reply("no")], pattern="yes|no")
    assert counts(result) == {"pattern": 1}
    with pytest.raises(InputError, match="not a regular expression"):
        curated([reply("a")], pattern="(")


def test_the_users_function_decides_and_its_errors_are_reported_per_item(tmp_path: Path) -> None:
    (tmp_path / "checks.py").write_text(
        "def good(reply, item):\n"
        "    if reply == 'odd': return 1\n"
        "    return 10 / int(reply) > 1 and item.id.startswith('i')\n"
    )
    train = split(texts(5))
    answers = {f"i{n}": reply(t) for n, t in enumerate(["5", "0", "50", "seven", "odd"])}
    for name in ("checks:good", "checks.py:good"):
        config = CurateConfig(function=name)
        result = curate(train, answers, task=TEXT, config=config, folder=tmp_path)
        assert [i.id for i in result.train.items] == ["i0"]
        assert counts(result) == {"function": 1, "function_error": 3}
        details = [dropped.detail for dropped in result.report.dropped["function_error"].examples]
        assert details[0].startswith("ZeroDivisionError")
        assert details[1].startswith("ValueError")
        assert details[2] == "returned 1, neither True nor False"


@pytest.mark.parametrize("name", ["nothing_here:good", "json:nothing", "json", "checks.py:good"])
def test_a_function_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        curate(
            split(["a"]),
            {"i0": reply("x")},
            task=TEXT,
            config=CurateConfig(function=name),
            folder=tmp_path,
        )


def test_lengths_are_bounded_in_characters() -> None:
    result = curated(
        [reply("ab"), reply("abc"), reply("abcdef"), reply("abcd")],
        prompts=["p" * 10, "q" * 10, "r" * 10, "s" * 11],
        min_reply_chars=3,
        max_reply_chars=5,
        max_prompt_chars=10,
    )
    assert counts(result) == {"short_reply": 1, "long_reply": 1, "long_prompt": 1}
    assert [i.id for i in result.train.items] == ["i1"]


def test_the_first_of_equal_prompts_is_kept_and_contradictions_are_reported() -> None:
    base = texts(40)
    words = base[2].split()
    prompts = [*base, base[0], base[1].upper() + "!", " ".join(words[:5] + words[6:])]
    answers: list[Reply | Failure] = [reply("positive") for _ in prompts]
    answers[40] = reply("negative")
    result = curated(answers, LABEL, prompts)
    assert [i.id for i in result.train.items] == [f"i{n}" for n in range(40)]
    assert counts(result) == {"duplicate": 2, "near_duplicate": 1}
    assert (
        "near copy of i2 (likeness 0." in result.report.dropped["near_duplicate"].examples[0].detail
    )
    assert result.report.conflicts == 1
    (conflict,) = result.report.conflict_examples
    assert (conflict.kept, conflict.dropped, conflict.dropped_reply) == ("i0", "i40", "negative")
    assert curated(answers, LABEL, prompts, near_duplicates=None).report.kept == 41
    assert curated(answers, LABEL, prompts, duplicates="keep").report.kept == 43


def test_an_unusable_item_does_not_take_the_place_of_its_usable_copy() -> None:
    result = curated([reply("", "stop"), reply("fine")], prompts=["the same", "the same"])
    assert [i.id for i in result.train.items] == ["i1"]


def test_prompts_that_differ_in_a_number_or_in_what_is_not_compared_both_train() -> None:
    base = texts(30)
    one = Item(id="i0", messages=(Message("user", "kettle: fine"),), variable="fine", group="a")
    two = Item(id="i1", messages=(Message("user", "lamp: fine"),), variable="fine", group="b")
    both = curate(
        TrainSplit((one, two)),
        {"i0": reply("x"), "i1": reply("y")},
        task=TEXT,
        config=CurateConfig(),
    )
    assert both.report.kept == 2
    prompts = [*base, "We paid 17 crowns for marble there", "We paid 29 crowns for marble there"]
    assert curated([reply("x") for _ in prompts], prompts=prompts).report.kept == 32


def test_what_is_also_in_validation_does_not_train_even_where_duplicates_are_kept() -> None:
    base = texts(30)
    train = split([*base, "held out word for word in here", "unlike"])
    validation = ValidationSplit(
        (item("v0", "Held out, word for word, in here"), item("v1", base[3]))
    )
    for duplicates in ("drop", "keep"):
        result = curate(
            train,
            {i.id: reply("x") for i in train.items},
            task=TEXT,
            config=CurateConfig(duplicates=duplicates),
            validation=validation,
        )
        assert counts(result) == {"in_validation": 2}
        assert {d.id for d in result.report.dropped["in_validation"].examples} == {"i3", "i30"}


def test_hidden_reasoning_follows_the_policy_and_is_counted() -> None:
    thought = replace(reply("<think>hm</think>\nyes"), tokens_reasoning=7)
    policy = ReplyPolicy(delimiters=("<think>", "</think>"))
    result = curate(split(["a"]), {"i0": thought}, task=TEXT, config=CurateConfig(), policy=policy)
    assert result.targets["i0"].reply == "yes"
    assert result.report.reasoning_tokens == 7


def test_reasoning_that_trains_stands_before_an_answer_that_is_checked_alone() -> None:
    policy = ReplyPolicy(reasoning="train", delimiters=("<think>", "</think>"))
    answers = [reply(f"<think>hm</think>\n{text}") for text in ("positive", "neither")]
    answers.append(replace(reply("negative"), reasoning="so", label_scores=(-2.0, -0.1)))
    replies = {f"i{n}": answer for n, answer in enumerate(answers)}
    result = curate(split(texts(3)), replies, task=LABEL, config=CurateConfig(), policy=policy)
    assert [target.reply for target in result.targets.values()] == [
        "<think>hm</think>\npositive",
        "<think>\nso\n</think>\n\nnegative",
    ]
    assert all(target.label_scores is None for target in result.targets.values())
    assert result.report.answers == {"positive": 1, "negative": 1}
    config = CurateConfig(max_reply_chars=14)
    document = {"i0": reply('<think>a long thought</think>{"total": 1}')}
    result = curate(split(["a"]), document, task=JSON, config=config, policy=policy)
    assert result.targets["i0"].reply == document["i0"].text


def test_nothing_left_is_an_error_that_says_why() -> None:
    with pytest.raises(InputError, match="nothing is left to train on") as caught:
        curated([reply("cut", "length"), reply(" ")])
    assert RULES["finish_reason"] in str(caught.value)
    assert RULES["empty"] in str(caught.value)


def test_test_items_in_training_are_reported_or_dropped_as_the_recipe_says() -> None:
    base = texts(120)
    train = split([*base[:100], base[105].upper()])
    test = TestSplit(tuple(item(f"t{n}", text) for n, text in enumerate(base[100:])))
    replies = {i.id: reply("fine") for i in train.items}
    replies["i7"] = reply(f"As it said: {base[110]}")
    kept = curate(train, replies, task=TEXT, config=CurateConfig())
    same, found = decontaminate(kept, test, replies, config=CurateConfig())
    assert same is kept
    assert set(found.train_ids) == {"i7", "i100"}
    with pytest.raises(InputError):
        found.require_clean()
    config = CurateConfig(contamination="drop")
    cleaned, _ = decontaminate(kept, test, replies, config=config)
    assert {i.id for i in kept.train.items} - {i.id for i in cleaned.train.items} == {"i7", "i100"}
    assert counts(cleaned)["in_test"] == 2
    assert set(cleaned.targets) == {i.id for i in cleaned.train.items}
    assert "i100" in {d.id for d in cleaned.report.dropped["in_test"].examples}
    assert decontaminate(cleaned, test, replies, config=CurateConfig())[1].clean


def test_the_report_is_json_and_the_same_every_time() -> None:
    answers: list[Reply | Failure] = [reply("a"), reply("b", "length"), reply("c")]
    one, two = curated(answers), curated(answers)
    assert one == two
    assert (
        orjson.loads(orjson.dumps(one.report.as_json()))["dropped"]["finish_reason"]["count"] == 1
    )


def test_copies_of_copies_are_kept_once() -> None:
    found = find_duplicates(["a b", "A b!", "a b", "c", "C"], near=None)
    assert [(d.index, d.first, d.sameness) for d in found] == [
        (1, 0, "normalised"),
        (2, 0, "exact"),
        (4, 3, "normalised"),
    ]
    held = find_duplicates(["a b", "A b!", "a b"], near=None, kept=2)
    assert [(d.index, d.first) for d in held] == [(2, 0)]


def test_a_likeness_that_would_take_everything_is_refused() -> None:
    with pytest.raises(InputError, match="near_duplicates"):
        CurateConfig(near_duplicates=0.2)
