"""Two related fields are chosen together: by each alone and by how usual they are side by side."""

from __future__ import annotations

import math
from datetime import date, timedelta
from typing import Any

import pytest
import torch
from torch import nn

from stillhouse.exchanges import InputError
from stillhouse.students import extraction
from stillhouse.students.extraction.examples import Example, options_of
from stillhouse.students.extraction.pieces import Pieces
from stillhouse.students.extraction.readings import read_all
from stillhouse.students.extraction.relations import (
    BINS,
    LONGEST_GAP,
    relation_bin,
    relation_histogram,
)

SCHEMA = {
    "properties": {"whole": {"type": "number"}, "part": {"type": ["number", "null"]}},
}
FIELDS = extraction.read_fields(SCHEMA, share_of={"part": "whole"})
MAY = date(2026, 5, 8)


def test_relations_are_counted_with_one_more_each_against_even_odds() -> None:
    found = relation_histogram([5, 5, 7])
    assert found.exp().mean().item() == pytest.approx(1)
    assert found[5].item() == pytest.approx(math.log(3 / (3 + BINS) * BINS))
    assert found[7].item() == pytest.approx(math.log(2 / (3 + BINS) * BINS))
    assert relation_histogram(()).tolist() == [0.0] * BINS


def test_gaps_are_told_by_the_day_and_shares_by_the_half_per_cent() -> None:
    assert relation_bin(MAY + timedelta(7), MAY) == LONGEST_GAP + 7
    assert relation_bin(MAY - timedelta(9999), MAY) == 0
    assert relation_bin(MAY + timedelta(9999), MAY) == BINS - 1
    assert relation_bin(19.0, 119.0) == relation_bin(1.9, 11.9) != relation_bin(20.0, 120.0)
    assert relation_bin(119.0, 119.0) == relation_bin(200.0, 119.0) == 0
    assert relation_bin(0.01, 119.0) == BINS - 1
    assert relation_bin(0.0, 119.0) == relation_bin(1.0, 0.0) == 0


@pytest.mark.parametrize("shares", [{"part": "part"}, {"part": "none"}, {"other": "whole"}])
def test_a_share_is_of_another_number_field(shares: dict[str, str]) -> None:
    with pytest.raises(InputError, match="number fields"):
        extraction.read_fields(SCHEMA, share_of=shares)


class Wavering(extraction.Extractor):
    """Gives each amount of a document a chance of its own, per field."""

    def __init__(self, chances: dict[str, list[float]]) -> None:
        super().__init__(nn.Identity(), 2, FIELDS)
        self.chances = chances
        self.learn_relations([{"whole": 119.0, "part": 19.0}] * 50 + [{"whole": 1, "part": None}])

    def forward(self, batch: Any) -> dict[str, torch.Tensor]:
        return {name: torch.tensor([chance]).log() for name, chance in self.chances.items()}

    def values(self, text: str) -> dict[str, Any]:
        readings = {str(kind): found for kind, found in read_all(text).items()}
        count = len(text)
        pieces = Pieces((1,) * (count + 2), (0,) * (count + 2), (-1, *range(count), count))
        example = Example(text, pieces, readings, None)
        assert len(options_of(example, FIELDS[0])) == len(self.chances["whole"])
        [found] = extraction.predict(self, [example])
        return found


def test_a_usual_share_outdoes_a_mild_preference_only() -> None:
    text = "200.00 and 38.00 make 238.00"
    model = Wavering({"whole": [0.0, 0.6, 0.1, 0.3], "part": [0.6, 0.0, 0.3, 0.1]})
    assert model.values(text) == {"whole": 238.0, "part": 38.0}
    model.chances = {"whole": [0.0, 0.9999, 0.0, 0.0001], "part": [0.7, 0.0, 0.2, 0.1]}
    assert model.values(text) == {"whole": 200.0, "part": None}
    model.chances = {"whole": [0.0, 0.1, 0.0, 0.9], "part": [0.999, 0.0, 0.001, 0.0]}
    assert model.values(text) == {"whole": 238.0, "part": None}


def test_without_replies_each_field_is_chosen_alone() -> None:
    model = Wavering({"whole": [0.0, 0.6, 0.1, 0.3], "part": [0.3, 0.0, 0.2, 0.5]})
    model.learn_relations([])
    assert model.values("200.00 and 38.00 make 238.00") == {"whole": 200.0, "part": 238.0}
