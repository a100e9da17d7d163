"""The judgement end to end, on sheets whose answers are known."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.parity.sheets_for_tests import (
    GOLDS,
    JSON,
    LABEL,
    TEXT,
    documents,
    flipped,
    items_of,
    sheet,
)

from stillhouse.exchanges.errors import InputError
from stillhouse.parity.comparisons import compare
from stillhouse.parity.items import TestSplit
from stillhouse.parity.judgement import JudgeConfig
from stillhouse.parity.judging import judge
from stillhouse.parity.verdict import MarginRecord, teacher_gate
from stillhouse.statistics import required_n
from stillhouse.teachers.chat import Reply

RECORD = MarginRecord(recipe_digest="ab" * 32, recorded_at="2026-01-02T03:04:05+00:00")
CONFIG = JudgeConfig(task=LABEL, margin=5.0, margin_record=RECORD, resamples=400)
ITEMS = items_of(GOLDS)
TEACHER = sheet(flipped(GOLDS, range(10)))
MAJORITY = sheet(["yes"] * 200)


def test_a_student_as_good_as_its_teacher_is_noninferior() -> None:
    student = sheet(flipped(GOLDS, range(2, 12)))
    found = judge(TestSplit(tuple(ITEMS)), TEACHER, student, {"majority": MAJORITY}, CONFIG)
    assert found.verdict.outcome == "non-inferior"
    assert found.verdict.interval.estimate == 0
    assert found.verdict.interval.method == "tango"
    assert found.verdict.margin_record == RECORD
    assert -5 < found.verdict.bound < 0
    assert found.verdict.smallest_margin_shown == pytest.approx(-found.verdict.bound)
    assert "loses at most" in found.verdict.sentence
    assert found.teacher.scores[0].value == pytest.approx(95)
    assert found.student.agreement == pytest.approx(196 / 200)
    assert (found.tally.both, found.tally.neither) == (188, 8)
    assert (found.tally.only_teacher, found.tally.only_student) == (2, 2)


def test_a_models_name_keeps_its_spelling_in_the_sentence() -> None:
    config = dataclasses.replace(CONFIG, student_name="gpt-x", margin_record=None)
    sentence = judge(ITEMS, TEACHER, TEACHER, {}, config).verdict.sentence
    assert sentence.startswith("gpt-x loses at most")
    assert "fixed before the run" not in sentence


@pytest.mark.parametrize(("alpha", "sure"), [(0.005, "99.5 %"), (0.025, "97.5 %"), (0.05, "95 %")])
def test_the_confidence_is_told_as_it_is(alpha: float, sure: str) -> None:
    found = judge(ITEMS, TEACHER, TEACHER, {}, dataclasses.replace(CONFIG, alpha=alpha))
    assert f"({sure} confidence)" in found.verdict.sentence


def test_a_much_worse_student_is_inferior() -> None:
    found = judge(ITEMS, TEACHER, sheet(flipped(GOLDS, range(80))), {}, CONFIG)
    assert found.verdict.outcome == "inferior"
    assert "loses at least" in found.verdict.sentence
    assert found.verdict.interval.estimate == pytest.approx(-35)
    assert len(found.disagreements) == CONFIG.disagreements
    worst = found.disagreements[0]
    assert (worst.id, worst.lost) == ("i10", pytest.approx(100))
    assert (worst.teacher, worst.student, worst.reference) == ("yes", "no", "yes")


def test_a_slightly_worse_student_is_not_shown_to_be_either() -> None:
    found = judge(ITEMS, TEACHER, sheet(flipped(GOLDS, range(18))), {}, CONFIG)
    assert found.verdict.outcome == "not shown"
    assert found.verdict.smallest_margin_shown > 5
    assert found.verdict.smallest_margin_possible < found.verdict.smallest_margin_shown
    assert (found.verdict.items_needed or 200) < 200  # the point estimate, not n, stands in the way
    assert "do not settle it" in found.verdict.sentence


@pytest.mark.parametrize("groups", [None, 7, 50])
def test_complete_agreement_never_gives_an_interval_of_no_width(groups: int | None) -> None:
    items = items_of(GOLDS, groups=groups)
    found = judge(items, TEACHER, TEACHER, {}, CONFIG)
    assert found.verdict.interval.low < 0 < found.verdict.interval.high
    assert found.verdict.smallest_margin_shown > 0
    assert found.student.agreement == 1


@pytest.mark.parametrize("groups", [None, 6, 40])
def test_ratios_agreeing_everywhere_keep_a_width_too(groups: int | None) -> None:
    items = items_of(documents(120), groups=groups)
    config = JudgeConfig(task=JSON, margin=1.0, resamples=400)
    answers = sheet(documents(120, wrong_b=range(3)))
    found = judge(items, answers, answers, {}, config)
    assert found.verdict.metric == "field_f1"
    assert found.verdict.interval.low < 0 < found.verdict.interval.high


def test_every_comparison_is_there_with_its_interval() -> None:
    baselines = {
        "majority": MAJORITY,
        "tfidf": sheet(flipped(GOLDS, range(60))),
        "untrained": sheet(["hmm"] * 200),
        "gold_trained": sheet(GOLDS),
    }
    found = judge(ITEMS, TEACHER, TEACHER, baselines, CONFIG)
    pairs = [(c.left, c.right) for c in found.comparisons]
    assert pairs == [
        ("student", "teacher"),
        ("student", "majority"),
        ("student", "tfidf"),
        ("student", "untrained"),
        ("student", "gold_trained"),
        ("teacher", "majority"),
        ("teacher", "tfidf"),
    ]
    by_pair = {pair: c.interval for pair, c in zip(pairs, found.comparisons, strict=True)}
    assert by_pair["student", "untrained"].estimate == pytest.approx(95)
    assert by_pair["student", "gold_trained"].estimate == pytest.approx(-5)
    assert all(i.low <= i.estimate <= i.high for i in by_pair.values())
    roles = [(s.name, s.role) for s in found.sheets]
    assert roles[:3] == [("teacher", "teacher"), ("student", "student"), ("majority", "baseline")]


def test_seeds_give_the_mean_and_widen_the_interval() -> None:
    one = judge(ITEMS, TEACHER, sheet(flipped(GOLDS, range(20))), {}, CONFIG)
    seeds = [sheet(flipped(GOLDS, range(wrong))) for wrong in (10, 20, 30)]
    three = judge(ITEMS, TEACHER, seeds, {}, CONFIG)
    score = three.student.scores[0]
    assert score.seeds.values == pytest.approx((95, 90, 85))
    assert (score.value, score.seeds.deviation) == (pytest.approx(90), pytest.approx(5))
    assert three.verdict.seeds == 3
    assert three.verdict.interval.estimate == pytest.approx(-5)
    width = [f.verdict.interval.high - f.verdict.interval.low for f in (one, three)]
    assert width[1] > width[0]
    assert "spread between training seeds" in three.verdict.interval.note
    assert not any("seed" in warning for warning in three.warnings)
    assert any("one training seed:" in warning for warning in one.warnings)


def test_seeds_that_differ_are_covered_and_would_not_be_without_their_spread() -> None:
    rng, runs, items, seeds = np.random.default_rng(11), 150, 150, 3
    missed = {"with": 0, "without": 0}
    for _ in range(runs):
        right_N = rng.random(items) < 0.9
        shift_S = rng.normal(0, 0.06, seeds)
        chance_SN = np.clip(np.where(right_N, 0.85, 0.3) + shift_S[:, None], 0, 1)
        student_SN1 = (rng.random((seeds, items)) < chance_SN)[..., None].astype(float)
        teacher_SN1 = right_N[None, :, None].astype(float)
        true = 0.9 * 0.85 + 0.1 * 0.3 - 0.9
        pooled_SN1 = student_SN1.mean(axis=0, keepdims=True)
        for name, left in (("with", student_SN1), ("without", pooled_SN1)):
            found = compare(left, teacher_SN1, None, span=1.0, alpha=0.05, rng=rng, resamples=200)
            missed[name] += found.interval.low > true
    assert missed["with"] / runs <= 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5
    assert missed["without"] / runs > 0.1


def test_more_items_do_not_narrow_the_spread_of_seeds() -> None:
    seeds = [sheet(flipped(GOLDS, range(wrong))) for wrong in (0, 10, 30)]
    found = judge(ITEMS, TEACHER, seeds, {}, CONFIG).verdict
    assert (found.outcome, found.items_needed) == ("not shown", None)
    wide = judge(ITEMS, TEACHER, seeds, {}, dataclasses.replace(CONFIG, margin=60.0)).verdict
    assert wide.items_needed is not None


def test_the_items_needed_are_those_of_the_score_interval() -> None:
    some = items_of(GOLDS[:20])
    found = judge(some, sheet(GOLDS[:20]), sheet(GOLDS[:20]), {}, CONFIG).verdict
    assert found.items_needed == required_n(0.05, 0.0) == 52
    student = sheet(flipped(GOLDS, range(18)))  # 8 of 200 differ
    assert judge(ITEMS, TEACHER, student, {}, CONFIG).verdict.items_needed == required_n(0.05, 0.04)


def test_seeds_of_a_ratio_average_their_ratios() -> None:
    items = items_of(documents(60))
    config = JudgeConfig(task=JSON, margin=5.0, resamples=400)
    seeds = [sheet(documents(60, wrong_b=range(k))) for k in (0, 6, 12)]
    found = judge(items, sheet(documents(60)), seeds, {}, config)
    assert found.student.scores[0].seeds.values == pytest.approx((100, 95, 90))
    assert found.verdict.interval.estimate == pytest.approx(-5)


def test_every_failure_is_counted_as_an_error_and_shown() -> None:
    texts: list[str | None] = list(GOLDS)
    texts[0], texts[1], texts[2] = None, "I'm sorry, but I can't say.", "perhaps"
    student = sheet(texts)
    del student["i3"]
    found = judge(ITEMS, TEACHER, student, {}, CONFIG)
    (counts,) = found.student.counts
    assert (counts.failed, counts.refused, counts.unparsed, counts.missing) == (1, 1, 1, 1)
    assert found.student.scores[0].value == pytest.approx(98)
    assert any("no answer to 1 items" in warning for warning in found.warnings)


def test_constrained_answers_are_scored_apart_and_said() -> None:
    half = {
        key: dataclasses.replace(reply, extra={"constrained": n < 100})
        for n, (key, reply) in enumerate(sheet(flipped(GOLDS, range(100))).items())
        if isinstance(reply, Reply)
    }
    found = judge(ITEMS, TEACHER, half, {}, CONFIG)
    apart = {c.channel: (c.answers, c.value) for c in found.student.channels}
    assert apart == {"constrained": (100, 0.0), "free text": (100, 100.0)}
    assert any("scored apart" in warning for warning in found.warnings)
    whole = dataclasses.replace(CONFIG, constrained=("teacher", "student"))
    again = judge(ITEMS, TEACHER, TEACHER, {}, whole)
    assert [c.channel for c in again.student.channels] == ["constrained"]
    assert not any("scored apart" in warning for warning in again.warnings)


def test_slices_have_both_models_and_an_interval() -> None:
    odd_wrong = [n for n in range(60) if n % 2]
    found = judge(ITEMS, TEACHER, sheet(flipped(GOLDS, odd_wrong)), {}, CONFIG)
    even, odd = found.slices
    assert (even.name, even.items, even.student) == ("even", 100, pytest.approx(100))
    assert odd.student == pytest.approx(70)
    assert odd.difference is not None
    assert odd.difference.high < 0


def test_a_slice_that_is_one_group_is_judged_by_its_items() -> None:
    items = items_of(GOLDS, groups=2)  # each of the two slices is one group
    student = sheet(flipped(GOLDS, range(30)))
    found = judge(items, TEACHER, student, {}, dataclasses.replace(CONFIG, margin=90.0))
    assert all(row.difference is not None for row in found.slices)


def test_a_tiny_slice_has_no_interval() -> None:
    items = [dataclasses.replace(i, slice="rare" if n < 9 else None) for n, i in enumerate(ITEMS)]
    (row,) = judge(items, TEACHER, TEACHER, {}, CONFIG).slices
    assert (row.items, row.difference) == (9, None)


def test_without_gold_the_teacher_is_the_reference() -> None:
    items = items_of([None] * 200)
    config = dataclasses.replace(CONFIG, reference="teacher")
    student = sheet(flipped(GOLDS, range(10, 16)))
    found = judge(items, TEACHER, student, {}, config)
    assert found.teacher.scores[0].value == 100
    assert found.student.scores[0].value == pytest.approx(92)
    assert any("no gold" in warning for warning in found.warnings)
    with pytest.raises(InputError, match="none of the 200 items has a gold answer"):
        judge(items, TEACHER, student, {}, CONFIG)


def test_items_without_gold_are_left_out_and_do_not_turn_the_verdict_round() -> None:
    student = sheet(flipped(GOLDS, range(2)))  # 99 % right, the teacher 95 %
    items = [dataclasses.replace(i, gold=None) if i.id == "i50" else i for i in ITEMS]
    found = judge(items, TEACHER, student, {}, CONFIG)
    assert (found.verdict.outcome, found.verdict.items) == ("non-inferior", 199)
    assert found.verdict.interval.estimate == pytest.approx(100 * 8 / 199)
    assert "1 of 200 items have no gold answer and are not judged" in found.warnings[0]


def test_items_that_the_teacher_did_not_answer_say_nothing_of_agreement() -> None:
    items, config = items_of([None] * 200), dataclasses.replace(CONFIG, reference="teacher")
    mute = sheet([*GOLDS[:30], *["I think it is yes"] * 170])
    found = judge(items, mute, sheet(flipped(GOLDS, range(10))), {}, config)
    assert (found.verdict.items, found.student.agreement) == (30, pytest.approx(2 / 3))
    assert found.verdict.outcome == "inferior"
    assert "170 of 200 items have no answer of the teacher" in found.warnings[0]
    assert "(170 unparsed)" in found.warnings[0]
    assert found.gate.parseable == pytest.approx(0.15)
    with pytest.raises(InputError, match="none of teacher's 200 answers can be read"):
        judge(items, sheet(["hm"] * 200), TEACHER, {}, config)


def test_an_answer_where_the_teacher_has_none_is_no_loss() -> None:
    items = items_of([None] * 100)
    answers = sheet(documents(100))
    teacher = answers | sheet(["sorry?"] * 20)
    config = JudgeConfig(task=JSON, margin=5.0, reference="teacher", resamples=400)
    found = judge(items, teacher, answers, {}, config)
    assert found.verdict.outcome == "non-inferior"
    assert found.student.scores[0].value == 100


def test_a_users_function_needs_no_reference(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text("def f(text, item):\n    return float(text == 'yes')\n")
    config = dataclasses.replace(
        CONFIG, primary="function", function=f"{tmp_path / 'score.py'}:f", reference="teacher"
    )
    teacher = sheet(["hm"] * 100 + ["yes"] * 100)
    found = judge(items_of([None] * 200), teacher, sheet(["yes"] * 200), {}, config)
    assert (found.verdict.items, found.verdict.interval.estimate) == (200, 50)
    assert [note.metric for note in found.metrics] == ["function"]


def test_label_scores_add_the_area_under_the_curve() -> None:
    rng = np.random.default_rng(5)

    def scored(noise: float) -> dict[str, Reply]:
        return {
            item.id: Reply(
                text="",
                finish_reason="stop",
                model="m",
                label_scores=(0.0, float((1 if gold == "yes" else -1) + rng.normal() * noise)),
            )
            for item, gold in zip(ITEMS, GOLDS, strict=True)
        }

    config = dataclasses.replace(CONFIG, primary="auc")
    found = judge(ITEMS, scored(0.5), scored(1.5), {}, config)
    assert found.teacher.scores[0].value > found.student.scores[0].value > 60
    assert found.verdict.interval.high < 0
    plain = judge(ITEMS, TEACHER, TEACHER, {}, CONFIG)
    assert plain.student.score("auc") is None
    with pytest.raises(InputError, match="teacher: the area under the ROC curve needs label"):
        judge(ITEMS, TEACHER, TEACHER, {}, config)


def test_lower_is_better_turns_the_difference_round() -> None:
    def scored(nats: float) -> dict[str, Reply]:
        extra = {"reference_logprob": nats}
        reply = Reply(text="x", finish_reason="stop", model="m", extra=extra)
        return {f"i{n}": reply for n in range(40)}

    config = JudgeConfig(task=TEXT, margin=0.1, primary="bits_per_byte", metrics=(), resamples=400)
    items = items_of(["four"] * 40)
    found = judge(items, scored(-4.0), scored(-4.2), {}, config)
    bits = 0.2 / np.log(2) / 4
    assert found.verdict.interval.estimate == pytest.approx(-bits)
    assert found.verdict.unit == "bits/byte"
    better = judge(items, scored(-4.2), scored(-4.0), {}, config)
    assert better.verdict.interval.estimate == pytest.approx(bits)


def test_the_same_inputs_give_the_same_judgement_and_it_is_json() -> None:
    items = items_of(GOLDS, groups=60)
    runs = [judge(items, TEACHER, sheet(flipped(GOLDS, range(70))), {}, CONFIG) for _ in range(2)]
    texts = [json.dumps(run.to_json(), allow_nan=False, sort_keys=True) for run in runs]
    assert texts[0] == texts[1]
    assert runs[0].verdict.interval.method == "cluster-bootstrap"
    assert json.loads(texts[0])["verdict"]["outcome"] == runs[0].verdict.outcome


def test_a_teacher_that_leads_too_little_is_called_out() -> None:
    found = judge(ITEMS, TEACHER, TEACHER, {"tfidf": sheet(flipped(GOLDS, range(15)))}, CONFIG)
    assert not found.gate.passes
    assert found.gate_on == "test"
    assert any("not worth distilling" in warning for warning in found.warnings)
    gate = teacher_gate(80.0, {"majority": 60.0, "tfidf": 70.0}, 0.99)
    config = dataclasses.replace(CONFIG, validation=gate)
    found = judge(ITEMS, TEACHER, TEACHER, {"tfidf": sheet(flipped(GOLDS, range(15)))}, config)
    assert found.gate_on == "validation"
    assert not any("not worth" in warning for warning in found.warnings)


def test_the_gate_needs_a_lead_and_readable_replies() -> None:
    assert teacher_gate(75.0, {"majority": 70.0}, 0.95).passes
    low = teacher_gate(74.9, {"majority": 70.0, "tfidf": 60.0}, 0.94)
    assert len(low.reasons) == 2
    assert teacher_gate(50.0, {"majority": 70.0}, 1.0, lead=None).passes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"margin": 0.0}, "decides nothing"),
        ({"primary": "rouge_l"}, "does not apply to label"),
        ({"primary": "function"}, "needs a function"),
        ({"constrained": ("tfidf",)}, "names 'tfidf', which is not judged"),
        ({"student_name": "teacher"}, "share a name"),
        ({"alpha": 0.6}, "alpha"),
        ({"task": dataclasses.replace(LABEL, labels=("yes",))}, "two labels or more"),
        ({"task": dataclasses.replace(LABEL, labels=("no", "yes", "Yes "))}, "read alike"),
    ],
)
def test_a_configuration_that_cannot_work_is_explained(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        judge(ITEMS, TEACHER, TEACHER, {}, dataclasses.replace(CONFIG, **change))


def test_items_that_cannot_be_judged_are_explained() -> None:
    with pytest.raises(InputError, match="no items"):
        judge([], TEACHER, TEACHER, {}, CONFIG)
    with pytest.raises(InputError, match="several items"):
        judge([ITEMS[0], ITEMS[0]], TEACHER, TEACHER, {}, CONFIG)
    with pytest.raises(InputError, match="no student answers"):
        judge(ITEMS, TEACHER, [], {}, CONFIG)


@settings(max_examples=40, deadline=None)
@given(
    teacher=st.lists(st.sampled_from(["yes", "no", "hm"]), min_size=24, max_size=24),
    student=st.lists(st.sampled_from(["yes", "no", None]), min_size=24, max_size=24),
    groups=st.sampled_from([None, 2, 8]),
)
def test_a_verdict_always_follows_from_its_own_interval(
    teacher: list[str], student: list[str | None], groups: int | None
) -> None:
    items = items_of(GOLDS[:24], groups=groups)
    found = judge(items, sheet(teacher), sheet(student), {}, CONFIG).verdict
    low, high, margin = found.interval.low, found.interval.high, found.margin
    assert low <= found.interval.estimate <= high
    assert low < high
    assert (found.outcome == "non-inferior") == (low > -margin)
    assert (found.outcome == "inferior") == (high < -margin)
