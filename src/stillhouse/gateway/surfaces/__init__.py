"""Surfaces: requests and replies of every API offered, read strictly and written anew.

Start from `parse_request`, which makes of a client's bytes an `Asked` with the request to send
upstream, and `ReplyRebuilder`, which makes of the upstream's bytes the reply to serve. Both work
from lists of what is allowed: a field that is not named here reaches neither side. `ServedModel`
and `TierPolicy` say what is offered and sold; every default of theirs is the closed one.

Refused here: repeated JSON keys, unknown fields, state at the upstream, images to fetch, reasoning
blobs issued to someone else, prefills, log-probabilities together with a bias. All pure: no I/O,
the clock is an argument.
"""

from stillhouse.gateway.reasoning import ReasoningFormat
from stillhouse.gateway.surfaces.policy import (
    DIALECTS,
    PATHS,
    Asked,
    Dialect,
    Image,
    RequestPolicy,
    ServedModel,
    Surface,
    TierPolicy,
    derive_cache_salt,
)
from stillhouse.gateway.surfaces.produced import Produced, Usage
from stillhouse.gateway.surfaces.reply import Rebuilt, ReplyRebuilder
from stillhouse.gateway.surfaces.request import parse_request
from stillhouse.gateway.surfaces.seal import ReasoningSeal
from stillhouse.gateway.surfaces.vectors import model_body, models_body

__all__ = [
    "DIALECTS",
    "PATHS",
    "Asked",
    "Dialect",
    "Image",
    "Produced",
    "ReasoningFormat",
    "ReasoningSeal",
    "Rebuilt",
    "ReplyRebuilder",
    "RequestPolicy",
    "ServedModel",
    "Surface",
    "TierPolicy",
    "Usage",
    "derive_cache_salt",
    "model_body",
    "models_body",
    "parse_request",
]
