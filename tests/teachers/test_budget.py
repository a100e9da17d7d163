import gc
import threading
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.exchanges import InputError
from stillhouse.teachers.budget import (
    Budget,
    Caps,
    Exhausted,
    Price,
    Reservation,
    Usage,
    bound_tokens,
    dollars,
)
from stillhouse.teachers.chat import ChatRequest, Message, Sampling

PRICE = Price.per_token(3, 7)
tokens = st.integers(0, 500)
outcomes = st.sampled_from(["settle", "full", "release", "drop", "keep"])
steps = st.lists(st.tuples(tokens, tokens, outcomes, st.floats(0, 1), st.integers(0, 9)))
caps = st.builds(
    Caps,
    money_nano=st.none() | st.integers(0, 20_000),
    tokens=st.none() | st.integers(0, 5_000),
    requests=st.none() | st.integers(0, 30),
)


def within(budget: Budget) -> bool:
    limits, spent = budget.caps, budget.spent
    return (
        (limits.requests is None or spent.requests + spent.held_requests <= limits.requests)
        and (limits.tokens is None or spent.tokens + spent.held_tokens <= limits.tokens)
        and (limits.money_nano is None or spent.nano + spent.held_nano <= limits.money_nano)
    )


@settings(max_examples=300, deadline=None)
@given(caps, steps)
def test_spend_never_exceeds_a_cap_in_any_interleaving(limits, plan):
    budget = Budget(limits, PRICE)
    held: list[Reservation] = []
    for tokens_in, tokens_out, outcome, share, which in plan:
        got = budget.reserve(Usage(tokens_in, tokens_out, None))
        assert within(budget)
        if isinstance(got, Reservation):
            held.append(got)
        if not held or outcome == "keep":
            continue
        del got
        one = held.pop(which % len(held))
        if outcome == "settle":
            one.settle(int(one.bound.tokens_in * share), int(one.bound.tokens_out * share))
        elif outcome == "full":
            one.charge_in_full()
        elif outcome == "release":
            one.release()
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                del one
                gc.collect(0)
        assert within(budget)
    for one in held:
        one.charge_in_full()
    spent = budget.spent
    assert within(budget)
    assert (spent.held_requests, spent.held_tokens, spent.held_nano) == (0, 0, 0)


def test_threads_that_reserve_together_never_pass_the_cap():
    budget = Budget(Caps(tokens=1_000, requests=73), None)
    barrier = threading.Barrier(8)
    won = []

    def work() -> None:
        barrier.wait()
        for _ in range(50):
            got = budget.reserve(Usage(5, 5, None))
            if isinstance(got, Reservation):
                won.append(got.charge_in_full())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 73
    assert budget.spent.tokens == 730


@given(st.lists(st.tuples(tokens, tokens), max_size=20), st.integers(0, 2_000))
def test_a_restored_budget_refuses_what_the_first_one_would_have_refused(charges, cap):
    first, second = (Budget(Caps(tokens=cap), PRICE) for _ in range(2))
    for pair in charges:
        got = first.reserve(Usage(*pair, None))
        if isinstance(got, Reservation):
            second.restore(got.settle(*pair))
    assert first.spent == second.spent
    answers = [budget.reserve(Usage(7, 7, None)) for budget in (first, second)]
    for answer in answers:
        if isinstance(answer, Reservation):
            answer.release()
    assert type(answers[0]) is type(answers[1])


def test_an_unknown_price_is_none_and_never_zero():
    budget = Budget(Caps(tokens=100), None)
    reservation = budget.reserve(Usage(10, 10, None))
    assert isinstance(reservation, Reservation)
    assert reservation.settle(1, 1).nano is None
    assert budget.spent.nano is None


def test_a_money_cap_with_an_unknown_price_is_refused_with_the_repair():
    with pytest.raises(InputError, match="price of gpt-9 is unknown") as error:
        Budget(Caps(money_nano=1), None, model="gpt-9")
    assert "price_in_nano" in str(error.value)


def test_usage_above_its_reserve_is_counted_reported_and_stops_all_further_requests():
    budget = Budget(Caps(money_nano=10_000), PRICE)
    reservation = budget.reserve(Usage(10, 10, None))
    assert isinstance(reservation, Reservation)
    charge = reservation.settle(10, 11)
    assert charge.nano == budget.spent.nano == 10 * 3 + 11 * 7
    assert "11 out" in (budget.breach or "")
    refused = budget.reserve(Usage(1, 1, None))
    assert isinstance(refused, Exhausted)
    assert refused.code == "usage_above_reserve"


@pytest.mark.parametrize(
    ("used", "repair"),
    [((10, 11), "teacher.max_tokens_name"), ((11, 10), "teacher.template_allowance")],
)
def test_usage_above_its_reserve_names_the_repair(used, repair):
    budget = Budget(Caps(), PRICE)
    reservation = budget.reserve(Usage(10, 10, None))
    assert isinstance(reservation, Reservation)
    reservation.settle(*used)
    assert repair in (budget.breach or "")


def test_a_reservation_cannot_be_consumed_twice():
    reservation = Budget(Caps(), None).reserve(Usage(1, 1, None))
    assert isinstance(reservation, Reservation)
    reservation.release()
    with pytest.raises(RuntimeError, match="twice"):
        reservation.settle(1, 1)


def test_a_dropped_reservation_is_charged_in_full_and_warns():
    budget = Budget(Caps(requests=1), None)
    held = [budget.reserve(Usage(3, 4, None))]
    with pytest.warns(ResourceWarning, match="charged in full"):
        held.clear()
    assert budget.spent.tokens == 7
    assert isinstance(budget.reserve(Usage(0, 0, None)), Exhausted)


def test_a_cap_that_was_lowered_below_the_spend_refuses_everything():
    budget = Budget(Caps(tokens=10), None)
    budget.restore(Usage(50, 50, None))
    assert isinstance(budget.reserve(Usage(0, 0, None)), Exhausted)


def test_a_price_is_applied_to_what_an_earlier_run_spent_without_one():
    budget = Budget(Caps(money_nano=1_000), PRICE)
    budget.restore(Usage(10, 10, None))
    assert budget.spent.nano == 100


@given(st.text(max_size=200), st.integers(1, 4096))
def test_the_input_bound_holds_for_a_tokenizer_that_makes_every_byte_a_token(text, max_tokens):
    request = ChatRequest(
        messages=(Message("system", "x"), Message("user", text)),
        sampling=Sampling(max_tokens=max_tokens),
    )
    bound = bound_tokens(request)
    assert bound.tokens_in >= len(text.encode()) + 1
    assert bound.tokens_out == max_tokens


def test_prices_below_a_nano_dollar_a_token_are_exact_and_rounded_up():
    price = Price.per_million("0.0375", "0.000000001")
    assert price.cost_nano(2, 0) == 75
    assert price.cost_nano(1, 0) == 38
    assert price.cost_nano(0, 1) == 1
    assert price.cost_nano(1_000_000, 1_000_000) == 37_500_001


@pytest.mark.parametrize("bad", ["free", "-1", "nan", "0.0000000001", "inf"])
def test_a_price_that_is_no_price_is_refused(bad):
    with pytest.raises(InputError, match="price 'in'"):
        Price.per_million(bad, "1")


def test_a_negative_cap_is_refused():
    with pytest.raises(InputError, match="cap tokens is -1"):
        Caps(tokens=-1)


def test_money_is_written_without_needless_zeros():
    assert dollars(1_500_000_000) == "$1.5"
    assert dollars(2_000_000_000) == "$2"
    assert dollars(43_560) == "$0.000044"
