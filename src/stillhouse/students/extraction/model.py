"""The extracting student: a small two-way encoder with heads that point at readings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stillhouse.students.extraction.pieces import SHAPES
from stillhouse.students.extraction.relations import relation_bin, relation_histogram

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from stillhouse.students.extraction.fields import Field

_RELATION_WEIGHT = 0.5  # at 1, amounts that fit by accident outdo an absent value too often
_FAR = -1e4  # a score that no pointer reaches


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents as tensors. B documents, T pieces, C_kind readings of each kind (padded).

    `ids`, `shapes`, `here` (1 for a real piece): (B, T). Per kind: `starts`, `ends` and `real`,
    all (B, C_kind). `targets` per pointed field: (B, O) over its options, which are
    null (always the first), the readings of its kind, and the counts of days if it takes them;
    per choice field: (B,) with -1 for none.
    """

    ids: Tensor
    shapes: Tensor
    here: Tensor
    starts: Mapping[str, Tensor]
    ends: Mapping[str, Tensor]
    real: Mapping[str, Tensor]
    targets: Mapping[str, Tensor]


class Extractor(nn.Module):
    """`encoder` is a BERT-like model; `width` its hidden size.

    A pointed field's options are scored as start + end of linear pointers; an absent value
    is one learned number, so that only the document's own evidence can outdo it. A choice's score
    is the log-sum over pieces. `relations`: per related field how it stands to its base
    (`relation_histogram`), even at first.
    """

    def __init__(self, encoder: nn.Module, width: int, fields: Sequence[Field]) -> None:
        super().__init__()
        self.encoder = encoder
        self.fields = tuple(fields)
        self.heads: dict[tuple[str, str], int] = {}
        for field in self.fields:
            if field.kind != "choice":
                self.heads[field.name, field.kind] = len(self.heads)
            if field.days_after is not None:
                self.heads[field.name, "days"] = len(self.heads)
        self.shape = nn.Embedding(SHAPES, width)
        nn.init.normal_(self.shape.weight, std=0.02)
        self.pointers = nn.Linear(width, 2 * len(self.heads))
        self.absent = nn.Parameter(torch.zeros(len(self.fields)))
        self.related = [field for field in self.fields if field.base is not None]
        self.relations: Tensor
        self.register_buffer("relations", relation_histogram(()).repeat(len(self.related), 1))
        self.choices = nn.ModuleDict(
            {f.name: nn.Linear(width, len(f.choices)) for f in self.fields if f.kind == "choice"}
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Log-probabilities per field: (B, O) over its options or (B, choices)."""
        words = self.encoder.get_input_embeddings()(batch.ids)  # type: ignore[operator]
        states = self.encoder(
            inputs_embeds=words + self.shape(batch.shapes), attention_mask=batch.here
        ).last_hidden_state.float()
        pointers = self.pointers(states)
        scores = {}
        for index, field in enumerate(self.fields):
            if field.kind == "choice":
                scores[field.name] = _anywhere(batch, self.choices[field.name](states))
                continue
            null = self.absent[index] if field.optional else torch.tensor(_FAR)
            parts = [null.expand(len(batch.ids), 1)]
            for kind in (field.kind, "days") if field.days_after else (field.kind,):
                head = self.heads[field.name, kind]
                found = _pointed(batch, kind, pointers[:, :, 2 * head : 2 * head + 2])
                parts.append(found.masked_fill(~batch.real[kind], _FAR))
            scores[field.name] = torch.cat(parts, 1).log_softmax(1)
        return scores

    def learn_relations(self, replies: Iterable[Mapping[str, Any]]) -> None:
        """Count how fields stand to their base in replies."""
        said = list(replies)
        for row, field in enumerate(self.related):
            pairs = [(one[field.name], one[field.base or ""]) for one in said]
            found = [relation_bin(*pair) for pair in pairs if None not in pair]
            self.relations[row] = relation_histogram(found)

    def relation(self, field: Field, value: Any, base: Any) -> float:
        """How much likelier than by chance a value is beside that of its base, tempered;
        0 without one."""
        if value is None or base is None:
            return 0.0
        found = self.relations[self.related.index(field), relation_bin(value, base)]
        return _RELATION_WEIGHT * float(found)

    def parameter_count(self) -> int:
        """All parameters, embeddings included."""
        return sum(parameter.numel() for parameter in self.parameters())


def loss_of(scores: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Mean over documents and fields of -log of the probability on right options.

    Several readings may say what the reply says; their probabilities are added. A field whose
    reply no reading says is left out.
    """
    parts = []
    for name, score in scores.items():
        target = batch.targets[name]
        if target.dtype == torch.bool:
            known = target.any(1)
            right = score.masked_fill(~target, _FAR).logsumexp(1)
        else:
            known = target >= 0
            right = score.gather(1, target.clamp(min=0).unsqueeze(1)).squeeze(1)
        parts.append(-(right * known).sum() / known.sum().clamp(min=1))
    return torch.stack(parts).mean()


def _pointed(batch: Batch, kind: str, pointers: Tensor) -> Tensor:
    """(B, C_kind) start plus end score; `pointers` is (B, T, 2)."""
    return pointers[:, :, 0].gather(1, batch.starts[kind]) + pointers[:, :, 1].gather(
        1, batch.ends[kind]
    )


def _anywhere(batch: Batch, per_piece: Tensor) -> Tensor:
    """(B, K) log-probabilities of K classes from scores (B, T, K): the log-sum over pieces."""
    return per_piece.masked_fill(batch.here.unsqueeze(2) == 0, _FAR).logsumexp(1).log_softmax(1)


def load_encoder(folder: str, **settings: Any) -> Any:
    """A BERT-like encoder from a folder, without dropout: it is slow here, and words are masked."""
    from transformers import AutoModel

    return AutoModel.from_pretrained(
        folder,
        local_files_only=True,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **settings,
    )
