"""Costs: whole numbers, unknown stays unknown, and break-even by hand."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillhouse.exchanges.errors import InputError
from stillhouse.parity.cost import (
    NOT_MEASURED,
    ModelCost,
    Price,
    TrainingCost,
    answers_price,
    break_even,
    cost_report,
    dollars,
    machine_price,
    speed_of,
    speedup_of,
    time_price,
)
from stillhouse.parity.wording import pays_off
from stillhouse.teachers.chat import Failure, Reply


@dataclass(frozen=True)
class Timing:
    batch_us: NDArray[np.int64]
    requests: NDArray[np.int64]
    tokens_in: int = 300
    tokens_out: int = 100
    dtype: str = "float32"
    threads: int = 2
    batch_size: int = 4


def timing(*rows: list[int], **fields: Any) -> Timing:
    return Timing(np.array(rows), np.array([4] * (len(rows[0]) - 1) + [2]), **fields)


TEACHER = timing([4000, 4200, 2000], [4400, 4000, 2100])
STUDENT = timing([1000, 1050, 500], [1100, 1000, 525])


def model(name: str, nano: int | None, **fields: Any) -> ModelCost:
    base = ModelCost(
        name=name,
        parameters=10,
        flops_per_token=20,
        disk_bytes=None,
        speed=speed_of(TEACHER, runtime="r"),
        speed_note="",
        price=Price(nano_per_thousand=nano, basis="b"),
    )
    return dataclasses.replace(base, **fields)


def test_speed_by_hand() -> None:
    speed = speed_of(TEACHER, runtime="transformers", peak_memory_bytes=7)
    assert speed.requests == 10
    assert speed.us_per_request == 20700 / 20
    assert speed.requests_per_second == pytest.approx(20 / 0.0207)
    assert speed.tokens_per_second == pytest.approx(800 / 0.0207)
    assert speed.batch_p50_us == 4000
    assert speed.peak_memory_bytes == 7


def test_speedup_is_a_ratio_of_equal_work() -> None:
    found = speedup_of(TEACHER, STUDENT)
    assert found is not None
    assert found.estimate == pytest.approx(4, rel=1e-9)
    assert found.low <= found.estimate <= found.high
    uneven = speedup_of(TEACHER, timing([1000, 2100, 500], [1100, 2000, 525]))
    assert uneven is not None
    assert uneven.estimate == pytest.approx(4 / 2 ** (1 / 3), rel=1e-9)
    assert uneven.low < 2.2 < uneven.high
    one = timing([4000])
    assert speedup_of(one, one) is None


def test_two_models_of_one_speed_have_a_speedup_of_one() -> None:
    found = speedup_of(TEACHER, TEACHER)
    assert found is not None
    assert found.estimate == 1


@pytest.mark.parametrize("field", [{"dtype": "bfloat16"}, {"threads": 1}, {"batch_size": 8}])
def test_speeds_under_different_conditions_are_not_compared(field: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="timed under different"):
        speedup_of(TEACHER, dataclasses.replace(STUDENT, **field))
    with pytest.raises(InputError, match="different batches"):
        speedup_of(TEACHER, timing([1000, 1]))


def test_a_machines_price_per_thousand_requests() -> None:
    speed = speed_of(TEACHER, runtime="r")  # 1035 us a request, so 1.035 s a thousand
    price = machine_price(speed, 3_600_000_000_000)  # 3,600 dollars an hour: one a second
    assert price.nano_per_thousand == 1_035_000_000
    assert machine_price(speed, None).nano_per_thousand is None
    assert "unknown" in machine_price(speed, None).basis


def test_a_price_is_unknown_as_soon_as_one_answer_has_none() -> None:
    def reply(nano: int | None) -> Reply:
        return Reply(text="", finish_reason="stop", model="m", price_nano=nano)

    lost = Failure(code="timeout", message="late", charged_nano=5)
    priced = answers_price({"a": reply(3), "b": reply(4), "c": lost}, "price list of May")
    assert priced.nano_per_thousand == 4000
    assert "price list of May" in priced.basis
    assert answers_price({"a": reply(3), "b": reply(None)}, "x").nano_per_thousand is None
    assert answers_price({}, "x").nano_per_thousand is None


def test_break_even_by_hand() -> None:
    assert break_even(1_000_000, 500, 300) == 5_000_000
    assert break_even(1, 500, 300) == 5
    assert break_even(1, 300, 300) is None
    assert break_even(None, 500, 300) is None
    assert break_even(1, None, 300) is None


@given(*(st.integers(0, 10**15) for _ in range(3)))
def test_break_even_is_the_first_request_that_pays(spent: int, teacher: int, student: int) -> None:
    found = break_even(spent, teacher, student)
    if teacher <= student:
        assert found is None
    else:
        assert found is not None
        assert found * (teacher - student) >= 1000 * spent
        assert (found - 1) * (teacher - student) < 1000 * spent


def test_the_report_says_what_is_unknown() -> None:
    training = TrainingCost(
        labelling_us=10, labelling_nano=600, teacher_tokens=5, training_us=9, training_nano=400
    )
    timed = {"teacher": TEACHER, "student": STUDENT}
    full = cost_report(model("teacher", 500), model("student", 300), training, timed=timed)
    assert (full.break_even, full.break_even_without_teacher) == (5000, 2000)
    assert full.speedup is not None
    assert full.notes == ()
    api = model("teacher", None, speed=None, speed_note=NOT_MEASURED)
    unknown = cost_report(
        api, model("student", 300), dataclasses.replace(training, labelling_nano=None)
    )
    assert unknown.break_even is None
    assert unknown.speedup is None
    assert "speed of teacher: not measured here" in unknown.notes
    assert "what labelling cost is unknown" in unknown.notes
    dear = cost_report(model("teacher", 3), model("student", 3), training)
    assert any("never pays off" in note for note in dear.notes)
    assert pays_off(full, full.break_even) == "5,000 requests"
    assert pays_off(dear, dear.break_even) == "never: the student is not cheaper"
    assert pays_off(unknown, unknown.break_even) == "unknown"


def test_time_and_money_round_up() -> None:
    assert time_price(1, 1) == 1
    assert time_price(3_600_000_000, 7) == 7
    assert time_price(None, 7) is None
    assert time_price(5, None) is None


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "$0.00"),
        (1_234_560_000_000, "$1,234.56"),
        (46_134_460, "$0.046"),
        (35_100, "$0.000035"),
        (5_930_000, "$0.0059"),
    ],
)
def test_dollars_keep_two_digits(nano: int, text: str) -> None:
    assert dollars(nano) == text


def test_nothing_timed_is_an_error() -> None:
    with pytest.raises(InputError, match="nothing was timed"):
        speed_of(timing([0]), runtime="r")
    assert math.isfinite(speed_of(TEACHER, runtime="r").requests_per_second)
