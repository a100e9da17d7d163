"""The trivial method for bits per byte: byte n-grams of the training replies, smoothed.

With N(cb) the number of times that byte b follows context c in training, N(c) their sum over b and
T(c) the number of different bytes that follow c,

    P(b | c) = (N(cb) + T(c) P(b | c')) / (N(c) + T(c)),

where c' is c without its oldest byte, P(b | c') stands alone where c was never seen, and every byte
has 1/256 below the empty context (Witten and Bell, 1991). Contexts are at most ORDER bytes and
begin with the reply: the prompt is not read. Natural logarithms; the end of a reply is not counted,
as for models.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from stillhouse.parity.baselines import Example, Sheet, need_examples
from stillhouse.parity.items import Item
from stillhouse.teachers.chat import Reply

ORDER = 5
REFERENCE_LOGPROB = "reference_logprob"


def ngram_answers(training: Sequence[Example], items: Sequence[Item]) -> Sheet:
    """Likelihoods of the gold texts under byte n-grams of the training answers.

    As an answer it gives the commonest one of training. Items without gold get no likelihood.
    """
    need_examples(training)
    model = ByteNgrams(example.answer for example in training)
    common = Counter(example.answer for example in training).most_common(1)[0][0]
    return {
        item.id: Reply(
            text=common,
            finish_reason="stop",
            model="ngram",
            extra={} if not item.gold else {REFERENCE_LOGPROB: model.logprob(item.gold)},
        )
        for item in items
    }


class ByteNgrams:
    """Counts of every byte after every context of up to ORDER bytes."""

    def __init__(self, texts: Iterable[str]):
        self._after: defaultdict[bytes, Counter[int]] = defaultdict(Counter)
        for text in texts:
            data = text.encode()
            for place, byte in enumerate(data):
                for length in range(min(ORDER, place) + 1):
                    self._after[data[place - length : place]][byte] += 1
        self._totals = {context: after.total() for context, after in self._after.items()}

    def probability(self, byte: int, context: bytes) -> float:
        """P(byte | context)."""
        found = 1 / 256
        for length in range(min(ORDER, len(context)) + 1):
            after = self._after.get(context[len(context) - length :])
            if after is None:
                break
            total, kinds = self._totals[context[len(context) - length :]], len(after)
            found = (after[byte] + kinds * found) / (total + kinds)
        return found

    def logprob(self, text: str) -> float:
        """Natural log of P(text)."""
        data = text.encode()
        return sum(
            math.log(self.probability(byte, data[max(0, place - ORDER) : place]))
            for place, byte in enumerate(data)
        )
