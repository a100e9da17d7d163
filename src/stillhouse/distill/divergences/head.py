"""A model's output head as data: what turns hidden states into logits, and nothing else of it."""

# ruff: noqa: N815 - shape suffixes on the fields
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch

from stillhouse.exchanges import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """What a model does to the bare products y of its head: z = softcap tanh(scale y / softcap)."""

    scale: float = 1.0
    softcap: float | None = None

    def __post_init__(self) -> None:
        if self.softcap is not None and self.softcap <= 0:
            raise InputError(f"a soft cap of {self.softcap}", repair="use None for no soft cap")

    def bend(self, y_NV: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        if self.scale != 1.0:
            y_NV = y_NV * self.scale
        return y_NV if self.softcap is None else self.softcap * torch.tanh(y_NV / self.softcap)

    def unbend(self, gradient_NV: torch.Tensor, z_NV: torch.Tensor) -> torch.Tensor:
        """Turn a gradient in the logits `z_NV` into one in the bare products."""
        if self.softcap is not None:
            gradient_NV = gradient_NV * (1 - (z_NV / self.softcap) ** 2)
        return gradient_NV * self.scale if self.scale != 1.0 else gradient_NV


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """logits = curve(hidden @ weight.T + bias).

    `weight_VD` may be the embedding's own tensor (a tied head): gradients then add up there.
    """

    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None = None
    curve: Curve = Curve()

    @classmethod
    def of(cls, model: Any) -> Self:
        """Read the head of a causal transformers model, and check it on the model itself.

        The config's `final_logit_softcapping` (Gemma), `logit_scale` (Cohere) and `logits_scaling`
        (a divisor: Granite) are honoured. Two tokens are run: `InputError` where the model's own
        logits are anything else than this head's.
        """
        output = model.get_output_embeddings()
        config = model.config.get_text_config()
        scale = getattr(config, "logit_scale", None) or 1.0
        head = cls(
            weight_VD=output.weight,
            bias_V=output.bias,
            curve=Curve(
                scale=scale / (getattr(config, "logits_scaling", None) or 1.0),
                softcap=getattr(config, "final_logit_softcapping", None),
            ),
        )
        head._check(model, output)
        return head

    @torch.no_grad()
    def _check(self, model: Any, output: Any) -> None:
        seen: list[torch.Tensor] = []
        handle = output.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
        try:
            ids_BL = torch.ones((1, 2), dtype=torch.long, device=self.weight_VD.device)
            theirs = model(input_ids=ids_BL, use_cache=False).logits.float()
        finally:
            handle.remove()
        ours = self.logits(seen[0])
        # bfloat16 keeps 8 bits; a missing cap or scale is far beyond that.
        tolerance = 1e-4 if self.weight_VD.dtype in (torch.float32, torch.float64) else 0.05
        if ours.shape != theirs.shape or not torch.allclose(
            ours.float(), theirs, rtol=tolerance, atol=tolerance * float(theirs.abs().max())
        ):
            raise InputError(
                f"{type(model).__name__}'s logits are not its output layer's with {self.curve}",
                repair="build a Head by hand that says what this model does after its output layer",
            )

    @property
    def vocabulary(self) -> int:
        """How many rows there are, padding included."""
        return int(self.weight_VD.shape[0])

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Return logits (N, V) at every hidden state: for a few of them."""
        y_NV = torch.nn.functional.linear(hidden_ND, self.weight_VD, self.bias_V)
        return self.curve.bend(y_NV)
