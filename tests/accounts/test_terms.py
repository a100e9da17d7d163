"""Terms: nobody is served before accepting, and publishing cuts nobody off at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.accounts import Delta, OrganisationRow, Snapshot, Terms
from stillhouse.accounts.measures import DAY_US
from stillhouse.accounts.terms import MINIMUM_NOTICE_US, check_acceptance, check_publication
from stillhouse.exchanges import InputError

days = st.integers(0, 100)


def standing(versions: list[Terms], accepted: int, day: float) -> str | None:
    delta = Delta(
        "e",
        1,
        0,
        full=True,
        terms=tuple(versions),
        organisations=(OrganisationRow("org", accepted),),
    )
    denied = Snapshot({1: b"k" * 32}, delta).terms("org", int(day * DAY_US))
    return denied and denied.code


def version(number: int, published: int, effective: int, grace: int) -> Terms:
    return Terms(number, published * DAY_US, effective * DAY_US, grace * DAY_US)


def test_nothing_is_served_before_the_first_acceptance() -> None:
    assert standing([], 0, 5) == "terms_required"
    assert standing([version(1, 0, 0, 0)], 0, 5) == "terms_required"
    assert standing([version(1, 0, 0, 0)], 1, 5) is None


def test_an_old_acceptance_holds_through_notice_and_grace() -> None:
    versions = [version(1, 0, 0, 0), version(2, 10, 20, 5)]
    assert standing(versions, 1, 24.999) is None
    assert standing(versions, 1, 25) == "terms_lapsed"
    assert standing(versions, 2, 25) is None


def test_publishing_again_does_not_put_the_date_off() -> None:
    versions = [version(1, 0, 0, 0), version(2, 10, 20, 5), version(3, 24, 60, 90)]
    assert standing(versions, 1, 26) == "terms_lapsed"


@given(st.lists(st.tuples(days, days, days), min_size=1, max_size=6), st.data())
def test_no_publication_ever_cuts_live_traffic_at_once(
    plan: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    now, versions = 0, []
    for wait, notice, grace in plan:
        now += wait
        new = version(len(versions) + 1, now, now + notice, grace)
        try:
            check_publication(new, versions)
        except InputError:
            continue
        for accepted in range(len(versions) + 1):
            before = standing(versions, accepted, now)
            assert standing([*versions, new], accepted, now) == before
            if before is None and accepted:
                almost = now + MINIMUM_NOTICE_US / DAY_US - 1e-6
                lapse = standing(versions, accepted, almost)
                assert standing([*versions, new], accepted, almost) == lapse
        versions.append(new)
    if versions:
        chosen = data.draw(st.sampled_from(versions))
        effective = [v.version for v in versions if v.effective_us <= now * DAY_US]
        if chosen.version < max(effective, default=0):
            with pytest.raises(InputError, match="replaced"):
                check_acceptance(chosen.version, versions, now * DAY_US)
        else:
            check_acceptance(chosen.version, versions, now * DAY_US)


def test_a_version_without_notice_is_refused() -> None:
    with pytest.raises(InputError, match="7 days"):
        check_publication(version(2, 10, 16, 30), [version(1, 0, 0, 0)])
    with pytest.raises(InputError, match="later"):
        check_publication(version(3, 10, 20, 30), [version(2, 0, 30, 0)])
