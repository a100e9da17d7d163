"""What of a teacher's next-token distributions a student learns: the keys of `train.divergence`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from stillhouse.distill.divergences import Divergence, Payload


def _key(default: Any, help_text: str) -> Any:
    return field(default=default, metadata={"help": help_text})


@dataclass(frozen=True, slots=True, kw_only=True)
class DivergenceConfig:
    """White-box training: the loss is a divergence from the teacher's distributions."""

    kind: Literal[
        "forward_kl",
        "reverse_kl",
        "jensen_shannon",
        "skew_forward_kl",
        "skew_reverse_kl",
        "total_variation",
        "adaptive_kl",
    ] = _key("forward_kl", "which divergence; docs/divergences.md defines each")
    temperature: float = _key(1.0, "divides both models' logits in the loss; no factor T²")
    beta: float | None = _key(None, "jensen_shannon: the teacher's share of the mixture; 0.5")
    alpha: float | None = _key(None, "skew_forward_kl, skew_reverse_kl: the skew; 0.1")
    mu: float | None = _key(None, "adaptive_kl: mass of the teacher's head; 0.5")
    source: Literal["live", "cache"] = _key(
        "live",
        "live: the teacher reads every batch; cache: it reads each reply once, before training, "
        "into a file that all epochs and seeds share",
    )
    keep: Literal["sampled", "top_k", "hidden"] = _key(
        "sampled",
        "cache: sampled ids (unbiased, for forward_kl alone), the likeliest ids with one bucket "
        "for all others, or the teacher's last hidden states (exact to bfloat16)",
    )
    ids: int = _key(
        12, "cache of sampled or top_k: ids kept at each reply token (top_k: 50 to 128)"
    )
    model: Path | None = _key(
        None,
        "folder or GGUF file of the model that gives the distributions, where the replies come "
        "from a recording or an endpoint of it; a local teacher's own when absent",
    )
    hidden_states: Literal["mse", "cosine"] | None = _key(
        None, "live: also pull every layer towards the teacher's at the same share of the depth"
    )
    hidden_weight: float = _key(1.0, "weight of the hidden-state term beside the divergence")
    packing: bool = _key(
        True,
        "lay sequences end to end, without padding and blind to each other; false for models "
        "with sliding windows",
    )

    def __post_init__(self) -> None:
        if self.hidden_states is not None and self.source == "cache":
            raise InputError(
                "train.divergence.hidden_states needs the teacher's inner layers, and a cache "
                "keeps none",
                repair="set train.divergence.source to live, or leave hidden_states out",
            )
        if self.source == "cache" and self.keep == "sampled" and self.kind != "forward_kl":
            raise InputError(
                f"sampled ids give a biased {self.kind}",
                repair="set train.divergence.keep to top_k or hidden, or kind to forward_kl",
            )
        if self.ids < 1 or self.hidden_weight < 0:
            raise InputError(
                f"train.divergence has ids {self.ids} and hidden_weight {self.hidden_weight}",
                repair="keep at least one id, and weigh with 0 or more",
            )

    def divergence(self) -> Divergence:
        """The loss. Raises `InputError` for a parameter out of range, or of another kind."""
        from stillhouse.distill.divergences import Divergence

        return Divergence(
            kind=self.kind,
            temperature=self.temperature,
            beta=self.beta,
            alpha=self.alpha,
            mu=self.mu,
        )

    def payload(self, vocabulary: int, width: int) -> Payload:
        """What a cache keeps of a teacher of that vocabulary and width."""
        from stillhouse.distill.divergences import Payload

        return Payload(
            kind=self.keep,
            size=width if self.keep == "hidden" else min(self.ids, vocabulary),
            vocabulary=vocabulary,
            temperature=self.temperature,
        )

    def in_words(self) -> str:
        """How a student trained by it learned, for the report."""
        loss = self.kind.replace("_", " ").replace("kl", "KL")
        own = next(
            (
                f", {n} {v:g}"
                for n in ("beta", "alpha", "mu")
                if (v := getattr(self, n)) is not None
            ),
            "",
        )
        heat = f" at temperature {self.temperature:g}{own}"
        kept = {
            "sampled": f"{self.ids} sampled ids a token",
            "top_k": f"the {self.ids} likeliest ids a token and one bucket",
            "hidden": "the teacher's hidden states",
        }
        how = "live teacher" if self.source == "live" else f"cache of {kept[self.keep]}"
        inner = (
            ""
            if self.hidden_states is None
            else f", {self.hidden_states} of hidden states (weight {self.hidden_weight:g})"
        )
        return f"{loss} to the teacher's distribution{heat}{inner}; {how}"
