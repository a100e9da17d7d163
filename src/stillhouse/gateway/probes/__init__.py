"""Probes: what an adversary's upstream or client would try, as values that test any gateway.

Start from `check_replies` and `check_requests`: give each a function that takes a probe through the
gateway under test, and get the probes that came through. `REPLY_PROBES` are replies with a secret
in every documented field of vLLM, SGLang, llama.cpp, OpenAI and Anthropic; `REQUEST_PROBES` are
requests that reach for more than the answer; `BENIGN_REPLIES` quote what hardening looks for and
must not change (`check_benign`). With a function that hands everything on, every probe leaks:
that is the test of the probes themselves. `try_gateway` does all three over HTTP, with a running
gateway of any make; it alone has I/O.

Refused here: nothing.
"""

from stillhouse.gateway.probes.benign import BENIGN_REPLIES, BenignReply
from stillhouse.gateway.probes.check import (
    check_benign,
    check_replies,
    check_requests,
    client_request,
    probe_models,
    served_chat,
)
from stillhouse.gateway.probes.probe import ANSWER, ReplyProbe, RequestProbe, Secret, events_of
from stillhouse.gateway.probes.replies import PROBE_FORMATS, REPLY_PROBES
from stillhouse.gateway.probes.requests import REQUEST_PROBES
from stillhouse.gateway.probes.trying import Tried, probe_configuration, try_gateway

__all__ = [
    "ANSWER",
    "BENIGN_REPLIES",
    "PROBE_FORMATS",
    "REPLY_PROBES",
    "REQUEST_PROBES",
    "BenignReply",
    "ReplyProbe",
    "RequestProbe",
    "Secret",
    "Tried",
    "check_benign",
    "check_replies",
    "check_requests",
    "client_request",
    "events_of",
    "probe_configuration",
    "probe_models",
    "served_chat",
    "try_gateway",
]
