"""The acts: everything an operator can ask for, one class each, by subject.

`ACTS` holds them all by name. A class says its fields, the right it needs (`RIGHT`), when a second
person is needed (`why_second`) and what it does (`carry_out`); `Store.perform` is the only caller.
"""

from stillhouse.accounts.acts.decisions import Approve, Reject
from stillhouse.accounts.acts.documents import AcceptTerms, PublishTerms
from stillhouse.accounts.acts.enforcement import (
    AppealMeasure,
    Ban,
    Block,
    DecideAppeal,
    Extend,
    Suspend,
    Undo,
)
from stillhouse.accounts.acts.keyring import IssueKey, RevokeKey, RotateKey
from stillhouse.accounts.acts.membership import (
    AddRepresentative,
    AssignCampaign,
    ChangeTier,
    CloseAccount,
    CloseOrganisation,
    CreateAccount,
    CreateOrganisation,
    CreditAccount,
    EraseFacts,
    RecordFacts,
    RemoveRepresentative,
)
from stillhouse.accounts.acts.settings import DefineTier, ListOrigin, UnlistOrigin
from stillhouse.accounts.acts.staff import (
    AddOperator,
    ChangeRole,
    PauseOperator,
    RemoveOperator,
    ReplaceToken,
    ResumeOperator,
    RotateOwnToken,
)
from stillhouse.accounts.desk import ACTS, Act

__all__ = [
    "ACTS",
    "AcceptTerms",
    "Act",
    "AddOperator",
    "AddRepresentative",
    "AppealMeasure",
    "Approve",
    "AssignCampaign",
    "Ban",
    "Block",
    "ChangeRole",
    "ChangeTier",
    "CloseAccount",
    "CloseOrganisation",
    "CreateAccount",
    "CreateOrganisation",
    "CreditAccount",
    "DecideAppeal",
    "DefineTier",
    "EraseFacts",
    "Extend",
    "IssueKey",
    "ListOrigin",
    "PauseOperator",
    "PublishTerms",
    "RecordFacts",
    "Reject",
    "RemoveOperator",
    "RemoveRepresentative",
    "ReplaceToken",
    "ResumeOperator",
    "RevokeKey",
    "RotateKey",
    "RotateOwnToken",
    "Suspend",
    "Undo",
    "UnlistOrigin",
]
