"""Asks the canaries of `identity` through a run's own scheduler: journaled and paid like the rest.

Round 0 and 1 are the reference. A later round is numbered after the highest one in the journal,
because answers of two times must not be mixed in one round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillhouse.teachers.identity import Change, Reference, canary_requests

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillhouse.teachers.chat import Reply
    from stillhouse.teachers.scheduler import Scheduler

CANARY_PREFIX = "canary/"


class Canaries:
    """The rounds of one run; `replies` is the run's own mapping, by key."""

    def __init__(
        self, scheduler: Scheduler, replies: Mapping[str, Reply], max_tokens: int, *, asked: bool
    ):
        self._scheduler = scheduler
        self._replies = replies
        self._requests = canary_requests(max_tokens)
        self._asked = asked  # rounds 0 and 1, by an earlier run: some may be refused for ever

    async def take_reference(self) -> bool:
        """Ask rounds 0 and 1 unless that was done; return whether it was."""
        wanted = [self._key(n, i) for n in (0, 1) for i in range(len(self._requests))]
        done = self._asked and self._reference().answered > 0
        if done or all(key in self._replies for key in wanted):
            return True
        for number in (0, 1):
            await self._ask(number)
        return False

    @property
    def weakness(self) -> str | None:
        """Why a change can pass unseen: most canaries brought no answer at the start."""
        answered, asked = self._reference().answered, len(self._requests)
        if 2 * answered >= asked:
            return None
        failures = self._scheduler.failures
        said = [failures[k].message for i in range(asked) if (k := self._key(0, i)) in failures]
        return (
            f"only {answered} of {asked} canaries brought an answer, so a change of the teacher can"
            f" pass unseen: {said[0] if said else 'their replies were empty'}. They are asked at"
            " temperature 0, for short replies; where the model does not take that, set"
            " teacher.canaries to false"
        )

    async def compare(self) -> Change | None:
        """Ask a new round and compare; None also when the scheduler was stopped on the way."""
        numbers = [int(k.split("/")[1]) for k in self._replies if k.startswith(CANARY_PREFIX)]
        number = 1 + max(numbers, default=1)
        await self._ask(number)
        reference = self._reference()
        now = self._found(number)
        suspicious = reference.suspicious(now)
        keys = {i: [f"{self._key(number, i)}/{n}" for n in (1, 2)] for i in suspicious}
        if self._scheduler.stop is None:
            await self._scheduler.drive(
                iter([(key, self._requests[i]) for i in suspicious for key in keys[i]])
            )
        if self._scheduler.stop is not None:
            return None
        again = {i: [self._replies[k] for k in keys[i] if k in self._replies] for i in suspicious}
        return reference.compare(now, again)

    async def _ask(self, number: int) -> None:
        keys = [(self._key(number, i), request) for i, request in enumerate(self._requests)]
        await self._scheduler.drive(iter([kr for kr in keys if kr[0] not in self._replies]))

    def _reference(self) -> Reference:
        return Reference(self._found(0), self._found(1))

    def _found(self, number: int) -> dict[int, Reply]:
        keys = {i: self._key(number, i) for i in range(len(self._requests))}
        return {i: self._replies[key] for i, key in keys.items() if key in self._replies}

    @staticmethod
    def _key(number: int, question: int) -> str:
        return f"{CANARY_PREFIX}{number}/{question}"
