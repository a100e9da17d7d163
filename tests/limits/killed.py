"""Kills the durable limiter at every named step and at random; run as a program by test_kills.

`python -m tests.limits.killed SCENARIO FOLDER SEED POINTS`: see tests/exchanges/killed.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.exchanges import killed
from tests.exchanges.killed import Acknowledge

from stillhouse.exchanges import RunLock
from stillhouse.limits import Demand, Ledger, Limit, Memory, Reserved, Scope, memory
from stillhouse.limits.folding import charges_of, fold, read_ledger

START = 1_770_000_000 * 10**6
SCOPE = Scope("account", "x")
PAID = Limit.balance("paid", "money", 10**9)
DAY = Limit.rolling("day", "money", 2 * 10**9, 86_400 * 10**6, burst=10**9)
COST = 10
OPEN = 3  # how many reservations are open at a time
TURN = 5


def used(number: int) -> int:
    return number % (COST + 1)


class LedgerScenario:
    """Reserves and settles in turns. The cells must hold what was acknowledged, and no more.

    Acknowledged are 2n for the n-th reservation and 2n + 1 for its settlement.
    """

    count = 14
    hold = False

    def __init__(self, folder: Path):
        self.folder = folder / "ledger"

    def prepare(self) -> None:
        limiter = self.open()
        for number in range(2):
            self.reserve(limiter, 1000 + number)
        limiter.close_now()

    def open(self) -> Memory:
        memory._CARRIED = 2
        return Memory(folder=self.folder, turn_after=TURN, hold=self.hold)

    def reserve(self, limiter: Memory, number: int) -> None:
        demands = [Demand(SCOPE, PAID, COST), Demand(SCOPE, DAY, COST)]
        demands.append(Demand(Scope("address", str(number)), DAY, COST))
        name = number.to_bytes(16, "big")
        assert isinstance(limiter.reserve_now(name, demands, START + number), Reserved)

    def settle(self, limiter: Memory, number: int) -> None:
        name = number.to_bytes(16, "big")
        limiter.settle_now(name, {"money": used(number)}, START + number)

    def write(self, acknowledge: Acknowledge) -> None:
        limiter = self.open()
        for number in range(self.count + OPEN):
            if number < self.count:
                self.reserve(limiter, number)
                assert limiter.write_reserved() is None
                acknowledge(2 * number)
            settled = number - OPEN
            if settled >= 0 and settled % 5:  # every fifth is never settled
                self.settle(limiter, settled)
                assert limiter.write_settled() is None
                acknowledge(2 * settled + 1)
        limiter.close_now()

    def check(self, acknowledged: list[int]) -> None:
        least = most = 2 * COST  # of `prepare`
        known = set(acknowledged)
        in_hand = max((n // 2 for n in known if n % 2 == 0), default=-1) + 1
        for number in range(self.count):
            final = used(number) if number % 5 else COST
            if 2 * number + 1 in known:
                least, most = least + final, most + final
            elif 2 * number in known:
                # Its settlement may have been in hand.
                least, most = least + min(final, COST), most + COST
            elif number == in_hand:
                most += COST
        for _ in range(2):  # the second time from what the first one wrote
            limiter = self.open()
            assert limiter.open_count == 0
            levels = {
                cell.limit.name: (cell.used if cell.limit == PAID else cell.level)
                for cell in limiter.cells()
                if cell.scope == SCOPE
            }
            limiter.close_now()
            assert least <= levels["paid"] <= most, (least, levels, most)
            # Some microseconds drain far less than one of cost: the level says the same.
            day = levels["day"] / DAY.grain
            assert abs(day - levels["paid"]) < 1, (day, levels["paid"])

    def finish(self) -> None:
        self.write(lambda number: None)
        assert len(list(self.folder.glob("events-*"))) <= 3


class HeldScenario(LedgerScenario):
    """The same with lines held back for a group commit."""

    hold = True


class FoldScenario:
    """Folds what a dead process and a living one left: nothing is lost, nothing counts twice."""

    def __init__(self, folder: Path):
        self.folder = folder / "process"

    def prepare(self) -> None:
        for life in range(2):
            ledger = Ledger(self.folder)
            for number in range(6):
                name = bytes([life, number]) * 8
                ledger.reserved(name, None, [Demand(SCOPE, PAID, COST), Demand(SCOPE, DAY, COST)])
                if number == 2:
                    ledger.turn(START)
                if number in (1, 4):
                    ledger.settled(name, START + number, {"money": 3}, START + number - 1)
                if number == 5:
                    ledger.settled(name, START, None)  # refused after all
            ledger.close()

    def write(self, acknowledge: Acknowledge) -> None:
        fold(self.folder, first=3, upto=4, now_us=START + 100)
        acknowledge(1)

    def check(self, acknowledged: list[int]) -> None:
        charges, opened, _ = charges_of(read_ledger(self.folder))
        sums = {"paid": 0, "day": 0}
        for charge in charges:
            sums[charge.demand.limit.name] += charge.demand.cost
        for intent in opened:
            for demand in intent.demands:
                sums[demand.limit.name] += demand.cost
        assert sums == {"paid": 4 * 3 + 6 * COST, "day": 4 * 3 + 6 * COST}, sums
        # Of the dead process none is open any more once it is folded; of the living all are.
        names = {intent.reservation_id[0] for intent in opened}
        assert names == ({1} if acknowledged else names)
        assert len([one for one in opened if one.reservation_id[0] == 1]) == 3

    def finish(self) -> None:
        with RunLock(self.folder):  # a start removes what a kill left half written
            fold(self.folder, first=3, upto=4, now_us=START + 100)
        self.check([1])
        assert [path.name for path in sorted(self.folder.glob("*-*"))] == [
            "events-00000004.journal",
            "folded-00000004.journal",
        ]


class CarelessScenario(LedgerScenario):
    """Drops the ledger's last line: the harness has to catch it."""

    def check(self, acknowledged: list[int]) -> None:
        for path in sorted(self.folder.glob("events-*"))[-1:]:
            lines = path.read_bytes().splitlines(keepends=True)
            if len(lines) > 2:
                path.write_bytes(b"".join(lines[:-1]))
        super().check(acknowledged)


killed.SCENARIOS = {
    "ledger": LedgerScenario,
    "held": HeldScenario,
    "fold": FoldScenario,
    "careless": CarelessScenario,
}  # type: ignore[assignment]

if __name__ == "__main__":
    killed.main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
