"""`judge`: answer sheets in, a judgement out. Pure: no model is asked and no file is read.

Every published number is in its metric's unit (points of 100, or bits per byte), and every
difference is positive where the left one is better.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stillhouse.exchanges.errors import InputError
from stillhouse.parity.answers import Answers
from stillhouse.parity.comparisons import Compared, Comparison, compare, spread_over_seeds
from stillhouse.parity.findings import slice_rows, tally, worst_disagreements
from stillhouse.parity.functions import load_measure
from stillhouse.parity.items import Item, TaskKind, TestSplit
from stillhouse.parity.judgement import (
    JudgeConfig,
    Judgement,
    MetricNote,
    Role,
    Score,
    SheetResult,
)
from stillhouse.parity.outcomes import Counts, check_labels, count
from stillhouse.parity.scores import (
    MEASURES,
    Floats,
    Measure,
    Metric,
    contributions,
    default_metric,
    estimate,
    find_measure,
)
from stillhouse.parity.sheets import (
    Bench,
    Sheet,
    channel_scores,
    judged_rows,
    open_bench,
    read_sheets,
)
from stillhouse.parity.verdict import TeacherGate, decide, teacher_gate

WHOLE_ANSWER: dict[TaskKind, Metric] = {
    "label": "accuracy",
    "json": "document_match",
    "text": "exact_match",
}
TRIVIAL = ("majority", "tfidf", "nearest", "regex", "ngram")  # what a teacher must lead


def judge(
    items: Sequence[Item] | TestSplit,
    teacher_answers: Answers,
    student_answers: Answers | Sequence[Answers],
    baselines: Mapping[str, Answers],
    config: JudgeConfig,
) -> Judgement:
    """Score every sheet with the same code, compare them in pairs, and give the verdict.

    `student_answers` may be one sheet a training seed: their mean is judged, their spread widens
    the interval. Items without a reference are not judged, and their number is a warning. The same
    inputs and `config.seed` give the same judgement. Raises InputError where no item has a
    reference, for sheets that answer other items, and for metrics that do not fit the task.
    """
    given = tuple(items.items if isinstance(items, TestSplit) else items)
    students = [student_answers] if isinstance(student_answers, Mapping) else list(student_answers)
    _check(given, students, baselines, config)
    sheets = read_sheets(
        config.task,
        given,
        {
            config.teacher_name: [teacher_answers],
            config.student_name: students,
            **{name: [answers] for name, answers in baselines.items()},
        },
        label_rule=config.label_rule,
        constrained=config.constrained,
    )
    parsed = sheets[config.teacher_name].seeds[0]
    measures = _measures(config)
    primary = measures[0]
    rows = list(range(len(given)))
    if primary.name != "function":  # which needs no reference
        rows = judged_rows(given, sheets[config.teacher_name], config.reference)
    judged = tuple(given[row] for row in rows)
    sheets = {name: sheet.subset(rows) for name, sheet in sheets.items()}
    teacher, student = sheets[config.teacher_name], sheets[config.student_name]
    bench = open_bench(config.task, judged, teacher, config.reference)
    if None in bench.references:
        measures = measures[:1]
    results, notes, absent = _score_all(bench, sheets, measures, config)
    pairs = _pairs(teacher, student, [sheets[name] for name in baselines if name not in absent])
    found = [_difference(bench, left, right, primary, config) for left, right in pairs]
    comparisons = tuple(
        Comparison(
            left=left.name, right=right.name, metric=primary.name, interval=difference.interval
        )
        for (left, right), difference in zip(pairs, found, strict=True)
    )
    gate = config.validation or _gate_on_test(results, count(parsed).parseable, primary, config)
    whole = find_measure(WHOLE_ANSWER[config.task.kind], config.task.kind)
    return Judgement(
        verdict=decide(
            found[0],
            config.margin,
            primary,
            alpha=config.alpha,
            items=len(judged),
            groups=len(set(bench.clusters)),
            seeds=len(students),
            margin_record=config.margin_record,
            names=(_in_words(config.student_name), _in_words(config.teacher_name)),
        ),
        sheets=results,
        comparisons=comparisons,
        slices=slice_rows(
            bench,
            teacher,
            student,
            primary,
            lambda part, left, right: _difference(part, left, right, primary, config).interval,
        ),
        disagreements=worst_disagreements(
            bench, teacher, student, _lost(bench, teacher, student, primary), config.disagreements
        ),
        tally=tally(bench.values(teacher, whole)[0] == 1.0, bench.values(student, whole)[0] == 1.0),
        gate=gate,
        gate_on="test" if config.validation is None else "validation",
        warnings=(
            *_one_group(bench),
            *_not_judged(count(parsed), bench, config),
            *_warnings(results, gate, config),
        ),
        metrics=notes,
        absent=absent,
        config=config,
    )


def _check(
    items: Sequence[Item],
    students: Sequence[Answers],
    baselines: Mapping[str, Answers],
    config: JudgeConfig,
) -> None:
    if not items:
        raise InputError("there are no items to judge on", repair="give a test split with items")
    twice = [name for name, times in Counter(item.id for item in items).items() if times > 1]
    if twice:
        raise InputError(
            f"the id {twice[0]!r} stands for several items", repair="make item ids unique"
        )
    if not students:
        raise InputError("there are no student answers", repair="give one sheet a training seed")
    names = [config.teacher_name, config.student_name, *baselines]
    if len(set(names)) < len(names):
        raise InputError(f"two answer sheets share a name among {', '.join(names)}")
    if config.task.kind == "label" and len(config.task.labels) < 2:
        raise InputError("a label task needs two labels or more", repair="list the task's labels")
    check_labels(config.task.labels)
    if not 0 < config.alpha < 0.5:
        raise InputError(f"alpha must lie between 0 and 0.5, found {config.alpha!r}")


def _measures(config: JudgeConfig) -> tuple[Measure, ...]:
    """The primary measure, then those beside it."""
    kind = config.task.kind
    primary = config.primary or default_metric(kind)
    others = config.metrics
    if others is None:
        others = tuple(m.name for m in MEASURES.values() if kind in m.kinds)
    return tuple(_measure(name, config) for name in dict.fromkeys((primary, *others)))


def _measure(name: Metric, config: JudgeConfig) -> Measure:
    if name != "function":
        return find_measure(name, config.task.kind)
    if config.function is None:
        raise InputError(
            'the metric "function" needs a function', repair="name it as `module:function`"
        )
    return load_measure(config.function)


def _score_all(
    bench: Bench, sheets: Mapping[str, Sheet], measures: Sequence[Measure], config: JudgeConfig
) -> tuple[tuple[SheetResult, ...], tuple[MetricNote, ...], dict[str, str]]:
    """Every measure on every sheet, and why a baseline was left out.

    The primary measure must be defined on teacher and student; a baseline without it is left out.
    """
    teacher = sheets[config.teacher_name]
    results: list[SheetResult] = []
    absent: dict[str, str] = {}
    skipped: dict[str, dict[str, str]] = {measure.name: {} for measure in measures}
    for sheet in sheets.values():
        scores = []
        for measure in measures:
            try:
                scores.append(_score(bench, sheet, measure, config))
            except InputError as error:
                if measure is not measures[0]:
                    skipped[measure.name][sheet.name] = error.message
                    continue
                if _role(sheet.name, config) == "baseline":
                    absent[sheet.name] = error.message
                    break
                raise InputError(
                    f"{sheet.name}: {error.message}", place=error.place, repair=error.repair
                ) from error
        if sheet.name in absent:
            continue
        results.append(
            SheetResult(
                name=sheet.name,
                role=_role(sheet.name, config),
                scores=tuple(scores),
                agreement=None if sheet is teacher else bench.agreement(sheet, teacher),
                counts=tuple(count(outcomes) for outcomes in sheet.seeds),
                channels=channel_scores(bench, sheet, measures[0]),
            )
        )
    notes = tuple(
        MetricNote(
            metric=measure.name,
            title=measure.title,
            unit=measure.unit,
            better=measure.better,
            definition=measure.definition,
            skipped=skipped[measure.name],
        )
        for measure in measures
        if len(skipped[measure.name]) < len(results)
    )
    return tuple(results), notes, absent


def _score(bench: Bench, sheet: Sheet, measure: Measure, config: JudgeConfig) -> Score:
    values_SNK = bench.values(sheet, measure)
    nothing_SNK = values_SNK[:1].copy()
    nothing_SNK[..., 0] = 0.0  # of a ratio the denominator stays
    interval = _compare(bench, values_SNK, nothing_SNK, measure, config, measure.scale).interval
    if measure.unit == "points":
        interval = dataclasses.replace(
            interval, low=max(0.0, interval.low), high=min(100.0, interval.high)
        )
    return Score(
        metric=measure.name,
        value=interval.estimate,
        interval=interval,
        seeds=spread_over_seeds([measure.scale * estimate(v_NK) for v_NK in values_SNK]),
    )


def _difference(
    bench: Bench, left: Sheet, right: Sheet, measure: Measure, config: JudgeConfig
) -> Compared:
    left_SNK, right_SNK = bench.values(left, measure), bench.values(right, measure)
    return _compare(bench, left_SNK, right_SNK, measure, config, measure.gain)


def _compare(
    bench: Bench,
    left_SNK: Floats,
    right_SNK: Floats,
    measure: Measure,
    config: JudgeConfig,
    gain: float,
) -> Compared:
    found = compare(
        left_SNK,
        right_SNK,
        _clusters(bench),
        span=measure.span(bench.task, bench.references),
        alpha=config.alpha,
        rng=np.random.default_rng(config.seed),
        resamples=config.resamples,
    )
    return found.scaled(gain)


def _lost(bench: Bench, teacher: Sheet, student: Sheet, measure: Measure) -> Floats:
    """What the student loses on each item (N,), over its seeds, in the measure's unit."""
    teacher_NK = bench.values(teacher, measure)[0]
    kept_SN = [contributions(own_NK, teacher_NK) for own_NK in bench.values(student, measure)]
    return np.asarray(measure.gain * (contributions(teacher_NK) - np.mean(kept_SN, axis=0)))


def _is_full(bench: Bench, sheet: Sheet, whole: Measure) -> NDArray[np.bool_]:
    return np.asarray(bench.values(sheet, whole)[0, :, 0] == 1.0)


def _clusters(bench: Bench) -> tuple[str, ...] | None:
    """The groups of the items; None where each item is its own, or all are in one.

    Within one group (a slice by layout, say) the claim is about that group, and its items are the
    sampled units. Where all that is judged is one group, sentence and warnings say so.
    """
    groups = len(set(bench.clusters))
    return None if groups in (1, len(bench.items)) else bench.clusters


def _pairs(teacher: Sheet, student: Sheet, baselines: Sequence[Sheet]) -> list[tuple[Sheet, Sheet]]:
    """Student against everything, teacher against what a trivial method reaches."""
    pairs = [(student, teacher), *((student, other) for other in baselines)]
    return pairs + [(teacher, other) for other in baselines if other.name in TRIVIAL]


def _gate_on_test(
    results: Sequence[SheetResult], parseable: float, primary: Measure, config: JudgeConfig
) -> TeacherGate:
    values = {result.name: result.scores[0].value for result in results}
    trivial = {n: v for n, v in values.items() if n in TRIVIAL and primary.better == "higher"}
    return teacher_gate(
        values[config.teacher_name],
        trivial,
        parseable,
        lead=config.teacher_lead,
        least_parseable=config.min_parseable,
    )


def _one_group(bench: Bench) -> tuple[str, ...]:
    groups = set(bench.clusters)
    if len(groups) > 1 or len(bench.items) == 1:
        return ()
    rest = "how groups differ is not known, so the verdict is about items of this group alone"
    return (f"all {len(bench.items)} items are of one group ({groups.pop()!r}): {rest}",)


def _not_judged(teacher: Counts, bench: Bench, config: JudgeConfig) -> tuple[str, ...]:
    """How many of the given items have no reference, and what the verdict is about then."""
    left, given = teacher.items - len(bench.items), teacher.items
    if not left:
        return ()
    why = "no gold answer"
    if config.reference == "teacher":
        ways = ("unparsed", "refused", "failed", "missing")
        told = (f"{getattr(teacher, way)} {way}" for way in ways if getattr(teacher, way))
        why = f"no answer of the teacher that can be read ({', '.join(told)})"
    rest = f"the verdict is about items like the other {len(bench.items)}"
    return (f"{left} of {given} items have {why} and are not judged: {rest}",)


def _warnings(
    results: Sequence[SheetResult], gate: TeacherGate, config: JudgeConfig
) -> tuple[str, ...]:
    teacher, student = results[0], results[1]
    found = []
    if not gate.passes:
        found.append("this teacher is not worth distilling here: " + "; ".join(gate.reasons))
    ways = [{channel.channel for channel in result.channels} for result in (teacher, student)]
    if ways[0] != ways[1] or max(map(len, ways)) > 1:
        told = (" and ".join(sorted(way)) or "no answer" for way in ways)
        found.append(
            "the two models did not answer in the same way: teacher by {}, student by {}; each "
            "way is scored apart below".format(*told)
        )
    if len(student.counts) == 1:
        found.append(
            "one training seed: how much another would change the student is not in this interval"
        )
    elif len(student.counts) == 2:
        found.append("two training seeds: their spread is poorly known")
    if config.margin_record is None:
        found.append("nothing records that the margin was fixed before the answers were seen")
    elif config.margin_record.changed_at is not None:
        found.append(
            "margin or metric were changed after answers to the test items were there: this is no "
            f"test of what was claimed before them, {config.margin_record.margin:g} by "
            f"{config.margin_record.metric}"
        )
    if config.reference == "teacher" and config.primary != "function":
        found.append(
            "there is no gold: the teacher's own answers are the reference, so its score is "
            "perfect by definition and the difference measures agreement only"
        )
    for result in results:
        missing = max(counts.missing for counts in result.counts)
        if missing:
            found.append(f"{result.name} has no answer to {missing} items; they count as wrong")
    return tuple(found)


def _role(name: str, config: JudgeConfig) -> Role:
    if name == config.teacher_name:
        return "teacher"
    return "student" if name == config.student_name else "baseline"


def _in_words(name: str) -> str:
    return f"the {name}" if name in ("teacher", "student") else name
