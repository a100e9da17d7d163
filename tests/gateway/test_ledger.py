"""The gateway's ledger does not grow for ever, and lets go of nothing too early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stillhouse.exchanges import (
    ExchangeLog,
    InputError,
    Journal,
    KeyedDigests,
    SkeletonHash,
    new_id,
)
from stillhouse.exchanges.dataset import compact, open_dataset
from stillhouse.gateway.ledger import Ledger
from stillhouse.gateway.recorder import Recorder, Served


def intent(number: int) -> dict[str, Any]:
    return {"id": f"{number:032x}", "price_nano": number}


def files(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/*.ledger"))


def test_files_that_are_kept_elsewhere_go_when_that_is_on_the_disk(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, time_us=1, rotate=4)
    for number in range(30):
        ledger.intend(intent(number))
        if number != 3:
            ledger.settle(intent(number))
        ledger.flush()
        ledger.turn(number + 2)
    assert len(files(tmp_path)) > 8
    ledger.forget()
    assert files(tmp_path).count("open") == 1
    ledger.discard()
    assert files(tmp_path) == ["open"]
    ledger.close()
    # What is open went along from file to file.
    again = Ledger(tmp_path, time_us=10**6)
    assert [one["id"] for one in again.recovery.unsettled] == [intent(3)["id"]]
    again.close()


def test_a_file_that_cannot_be_begun_leaves_the_present_one_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path, time_us=1, rotate=1)
    ledger.intend(intent(1))
    ledger.flush()
    append = Journal.append_encoded

    def full(journal: Journal, lines: list[bytes]) -> int:
        if journal.path != kept:
            raise InputError("the disk is full")
        return append(journal, lines)

    kept = ledger.path
    monkeypatch.setattr(Journal, "append_encoded", full)
    with pytest.raises(InputError):
        ledger.turn(2)
    monkeypatch.undo()
    assert ledger.path == kept
    assert files(tmp_path) == ["open"]
    ledger.intend(intent(2))
    assert ledger.flush()
    ledger.close()
    again = Ledger(tmp_path, time_us=10**6)
    assert [one["id"] for one in again.recovery.unsettled] == [intent(n)["id"] for n in (1, 2)]
    again.close()


def outcome(number: int) -> dict[str, Any]:
    time_us = 1_800_000_000_000_000 + number
    names = dict.fromkeys(("account", "key", "organisation", "model"), "x")
    counts = {"tokens_in": 1, "tokens_out": 1, "price_nano": 1, "status": 200}
    kept = {"id": new_id(time_us).hex(), "time_us": time_us, "streamed": False}
    return kept | names | counts


def test_what_was_compacted_before_a_crash_is_not_recorded_again(tmp_path: Path) -> None:
    digests = KeyedDigests(b"x" * 32)

    def opened() -> tuple[Ledger, ExchangeLog, Recorder]:
        ledger = Ledger(tmp_path / "ledger", time_us=1)
        log = ExchangeLog(
            tmp_path, key_id=digests.key_id, time_us=1, fsync_every=0, journal_length=4
        )
        return ledger, log, Recorder(log, ledger, digests, SkeletonHash(digests))

    ledger, log, recorder = opened()
    for number in range(10):
        kept = outcome(number)
        recorder.add(Served(kept["time_us"], ledger.settle(kept), ("hi",), b"{}"))
        ledger.flush()
        recorder.work(budget_us=None)
    compact(tmp_path)  # the closed journals, while the gateway runs
    ledger._journal.close()  # no clean end
    log.close()
    ledger, log, recorder = opened()
    assert recorder.recover(ledger.recovery.outcomes, ledger.recovery.logs) == 0
    ledger.close()
    log.close()
    compact(tmp_path)
    assert open_dataset(tmp_path).count_rows() == 10
