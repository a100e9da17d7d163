"""The gateway's ledger does not grow for ever, and lets go of nothing too early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stillhouse.gateway.ledger import Ledger


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
