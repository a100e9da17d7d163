"""Gateway: the OpenAI-compatible front of a model, for accounts with keys and limits.

Start from `Service.open` (everything one process keeps open) and `Gateway` (the path;
read `Gateway._serve` to follow one request). `decide` is the admission alone, for simulations.
`surfaces` rebuilds requests and replies, `refusals` is the table of every no, `config` the file.

Refused here: clients' bytes on the way to a model, fields that no allow-list names, upstreams that
a client chooses, anything unpaid, and serving while the accounts, the limits or the journal are not
known to work.
"""

from stillhouse.gateway.admission import Admit, Asking, Bound, Refuse, Rules, decide
from stillhouse.gateway.app import Gateway
from stillhouse.gateway.config import Config, build_config, open_doors, read_config
from stillhouse.gateway.refusals import REFUSALS, Refusal, RefusedError
from stillhouse.gateway.service import Service

__all__ = [
    "REFUSALS",
    "Admit",
    "Asking",
    "Bound",
    "Config",
    "Gateway",
    "Refusal",
    "Refuse",
    "RefusedError",
    "Rules",
    "Service",
    "build_config",
    "decide",
    "open_doors",
    "read_config",
]
