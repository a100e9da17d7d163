"""Is it still the same teacher? Its names, and its answers to twenty fixed questions.

The reference is taken at the start by asking every canary twice, at temperature 0: endpoints that
batch requests are not deterministic even then, and the two rounds measure by how much. Later one
round is asked again. A canary is *changed* when its new answer was never seen at the start and two
more askings give that same new answer; a canary whose first two answers differed cannot testify.
The teacher is changed when a name is new, or when more canaries are changed than were unstable at
the start. This is a tripwire, not a test of known size: a server whose rounding depends on its load
can trip it (then split the data, or judge on), and a change that leaves 20 short answers alone
passes unseen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from stillhouse.teachers.chat import ChatRequest, Failure, Message, Reply, Sampling

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CANARY_QUESTIONS = (
    "What is 17 times 23? Answer with the number only.",
    "Write the word 'distillery' backwards. Answer with one word.",
    "What is the capital of Australia? Answer with one word.",
    "Name the chemical element with atomic number 50.",
    "Continue this sequence with one number: 2, 6, 12, 20, 30,",
    "Translate 'the copper is warm' into French.",
    "Which is heavier, a litre of water or a litre of mercury?",
    "Complete the proverb: A rolling stone",
    "What comes next after Monday, Wednesday, Friday?",
    "Give one synonym of 'rapid'.",
    "Sort these words: pear, apple, fig. Answer with a list.",
    "How many letters are in the word 'evaporation'?",
    "Is the sentence 'I could not be happier' positive or negative?",
    "Write a haiku about a river.",
    "Who wrote 'The Origin of Species'?",
    "Convert 3.5 kilometres to metres.",
    "What does the Python expression len('abc' * 4) return?",
    "Describe the colour blue in exactly five words.",
    "Spell out the number 4019 in English.",
    "Invent a name for a small grey cat.",
)


@dataclass(frozen=True, slots=True)
class IdentityPolicy:
    """What to do when the teacher changes.

    "stop" ends the run; "split" goes on and marks every reply with the group it belongs to.
    `canaries` False compares names alone (for an endpoint that bills too much for 80 questions);
    `max_tokens` is to be raised for models that think before they answer.
    """

    on_change: Literal["stop", "split"] = "stop"
    canaries: bool = True
    max_tokens: int = 24


@dataclass(frozen=True, slots=True)
class Change:
    """How the teacher differs from the reference, in sentences."""

    what: tuple[str, ...]

    def __str__(self) -> str:
        return "; ".join(self.what)


def canary_requests(max_tokens: int) -> tuple[ChatRequest, ...]:
    """Return the twenty questions as requests."""
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0)
    return tuple(
        ChatRequest(messages=(Message("user", question),), sampling=sampling)
        for question in CANARY_QUESTIONS
    )


class Reference:
    """What was seen at the start: names, and the answers of two rounds."""

    def __init__(self, first: Mapping[int, Reply], second: Mapping[int, Reply]):
        both = [*first.values(), *second.values()]
        self.models = {reply.model for reply in both}
        self.fingerprints = {reply.system_fingerprint for reply in both}
        seen = {i: {first[i].text, second[i].text} for i in first if i in second}
        self._seen = {i: texts for i, texts in seen.items() if texts != {""}}

    @property
    def answered(self) -> int:
        """How many canaries got an answer in both rounds; only these can testify."""
        return len(self._seen)

    @property
    def unstable(self) -> int:
        """How many canaries got two different answers at the start."""
        return sum(len(texts) > 1 for texts in self._seen.values())

    def new_names(self, replies: Sequence[Reply]) -> list[str]:
        """Say which names in `replies` were not seen at the start."""
        found: list[str] = []
        if not self.models:
            return found
        models = {reply.model for reply in replies} - self.models
        if models:
            found.append(f"the model was {_listed(self.models)}, now {_listed(models)}")
        prints = {reply.system_fingerprint for reply in replies} - self.fingerprints
        if prints:
            found.append(
                f"the system fingerprint was {_listed(self.fingerprints)}, now {_listed(prints)}"
            )
        return found

    def suspicious(self, now: Mapping[int, Reply]) -> tuple[int, ...]:
        """Return the canaries that were stable at the start and are answered differently now."""
        return tuple(
            i
            for i, reply in now.items()
            if len(self._seen.get(i, ())) == 1 and reply.text not in self._seen[i]
        )

    def compare(
        self, now: Mapping[int, Reply], again: Mapping[int, Sequence[Reply | Failure]]
    ) -> Change | None:
        """Compare a later round; `again` holds two more answers to each suspicious canary."""
        found = self.new_names(list(now.values()))
        changed = [
            i
            for i in self.suspicious(now)
            if len(again.get(i, ())) >= 2
            and all(isinstance(r, Reply) and r.text == now[i].text for r in again[i])
        ]
        if len(changed) > self.unstable:
            i = changed[0]
            found.append(
                f"{len(changed)} of {len(now)} canaries have a new constant answer ({self.unstable}"
                f" were unstable at the start), such as {CANARY_QUESTIONS[i]!r}:"
                f" {next(iter(self._seen[i]))!r} became {now[i].text!r}"
            )
        return Change(tuple(found)) if found else None


def group_of(reply: Reply, epoch: int) -> str:
    """Name the group of replies that were made by one teacher, for data that is split."""
    return f"{epoch}/{reply.model}/{reply.system_fingerprint or '-'}"


def _listed(names: set[str] | set[str | None] | set[str | None]) -> str:
    return ", ".join(sorted(repr(name) for name in names))
