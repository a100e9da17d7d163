"""Teachers: what answers, and whether its answers may train another model.

Start from `EndpointTeacher` (any OpenAI-compatible endpoint) or `RecordedTeacher`, and `label`,
which brings every request to a reply under a `Budget` and survives Ctrl-C and kill -9. `check` is
the terms gate, `admit` says which replies may train, `fetch` gets a pinned package. A model on this
machine is `stillhouse.teachers.local.LocalModel` (it needs torch, so it is not imported here).

Refused here: spending past a cap, a money cap without a price, failures kept as replies, replies of
two teachers mixed, a live call from a recording, keys in URLs, outputs whose terms are forbidden,
unknown, conditional or unread.
"""

from stillhouse.teachers.admissible import (
    Admission,
    Admitted,
    Rejected,
    ReplyPolicy,
    admit,
    admit_all,
    answers_alone,
)
from stillhouse.teachers.budget import Budget, Caps, Price
from stillhouse.teachers.chat import ChatRequest, Failure, Message, Reply, Sampling, TokenLogprob
from stillhouse.teachers.endpoint import EndpointSettings, EndpointTeacher, Timeouts
from stillhouse.teachers.exchanged import exchanges_of
from stillhouse.teachers.identity import IdentityPolicy
from stillhouse.teachers.labelling import (
    LabelResult,
    Progress,
    label,
    label_all,
    open_journal,
)
from stillhouse.teachers.licences import Evidence, read_licences
from stillhouse.teachers.packages import cache_folder, fetch, unpack
from stillhouse.teachers.recording import RecordedTeacher, record_journal, write_recording
from stillhouse.teachers.records import request_key
from stillhouse.teachers.scheduler import LabelSettings, Stop
from stillhouse.teachers.secret import Secret
from stillhouse.teachers.terms import (
    Permission,
    Permit,
    Refuse,
    Terms,
    check,
    find_terms,
    table,
)

__all__ = [
    "Admission",
    "Admitted",
    "Budget",
    "Caps",
    "ChatRequest",
    "EndpointSettings",
    "EndpointTeacher",
    "Evidence",
    "Failure",
    "IdentityPolicy",
    "LabelResult",
    "LabelSettings",
    "Message",
    "Permission",
    "Permit",
    "Price",
    "Progress",
    "RecordedTeacher",
    "Refuse",
    "Rejected",
    "Reply",
    "ReplyPolicy",
    "Sampling",
    "Secret",
    "Stop",
    "Terms",
    "Timeouts",
    "TokenLogprob",
    "admit",
    "admit_all",
    "answers_alone",
    "cache_folder",
    "check",
    "exchanges_of",
    "fetch",
    "find_terms",
    "label",
    "label_all",
    "open_journal",
    "read_licences",
    "record_journal",
    "request_key",
    "table",
    "unpack",
    "write_recording",
]
