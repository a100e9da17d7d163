"""Acts on keys: issue, rotate with a grace, revoke."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, StringConstraints

from stillhouse.accounts import schema
from stillhouse.accounts.acts.words import Id, Name, Reason
from stillhouse.accounts.credentials import mint
from stillhouse.accounts.desk import Act, Desk, Done
from stillhouse.accounts.measures import DAY_US, HOUR_US
from stillhouse.accounts.roles import Right
from stillhouse.exchanges import InputError

Scopes = Annotated[
    list[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9:._-]{0,63}$")]],
    Field(min_length=1, max_length=32, description="What the key may be used for."),
]


class IssueKey(Act):
    """Make a key of an account; its text is shown once."""

    NAME: ClassVar[str] = "issue-key"
    RIGHT: ClassVar[Right] = Right.ENROL
    EXAMPLE: ClassVar[str] = "--account acct_4Zq0p9XbT1aK --label backend --days 90"

    account: Id
    label: Name = "key"
    scopes: Scopes = Field(default=["inference"])
    days: Annotated[
        int, Field(ge=0, le=3650, description="Days until it expires; 0 means it does not.")
    ] = 0

    def carry_out(self, desk: Desk) -> Done:
        """Keep the digest, give the text."""
        account = desk.get(schema.accounts, self.account)
        if account.closed_us is not None:
            raise InputError("this account is closed", place=account.id)
        expires_us = desk.now_us + self.days * DAY_US if self.days else None
        return issue(desk, self.NAME, account.id, self.label, self.scopes, expires_us, None)


class RotateKey(Act):
    """Replace a key; the old one works until the grace ends."""

    NAME: ClassVar[str] = "rotate-key"
    RIGHT: ClassVar[Right] = Right.ENROL
    EXAMPLE: ClassVar[str] = "--key 4Zq0p9XbT1aK --grace-hours 24"

    key: Id
    grace_hours: Annotated[int, Field(ge=0, le=720)] = 24

    def carry_out(self, desk: Desk) -> Done:
        """Issue a key with the same scopes and lifetime; the old one expires, or is revoked."""
        old = desk.get(schema.keys, self.key)
        if old.revoked_us is not None or (old.expires_us or desk.now_us + 1) <= desk.now_us:
            raise InputError("this key is revoked or expired", place=old.id, repair="issue a key")
        grace_us = desk.now_us + self.grace_hours * HOUR_US
        ends_us = grace_us if old.expires_us is None else min(grace_us, old.expires_us)
        revoked_us = None if self.grace_hours else desk.now_us
        desk.change(schema.keys, old.id, expires_us=ends_us, revoked_us=revoked_us)
        desk.changed("key", old.id)
        lives_us = None if old.expires_us is None else old.expires_us - old.created_us
        expires_us = None if lives_us is None else desk.now_us + lives_us
        return issue(desk, self.NAME, old.account, old.label, old.scopes, expires_us, old.id)


class RevokeKey(Act):
    """Revoke a key at once and for good."""

    NAME: ClassVar[str] = "revoke-key"
    RIGHT: ClassVar[Right] = Right.ENROL
    EXAMPLE: ClassVar[str] = "--key 4Zq0p9XbT1aK --reason 'leaked in a public repository'"

    key: Id
    reason: Reason

    def carry_out(self, desk: Desk) -> Done:
        """Set when it was revoked."""
        row = desk.get(schema.keys, self.key)
        if row.revoked_us is None:
            desk.change(schema.keys, row.id, revoked_us=desk.now_us)
            desk.changed("key", row.id)
        return Done(self.NAME, row.id)


def issue(
    desk: Desk,
    act: str,
    account: str,
    label: str,
    scopes: list[str],
    expires_us: int | None,
    replaces: str | None,
) -> Done:
    """Make a key and keep its digest under the newest pepper."""
    made = mint()
    values: dict[str, Any] = {"created_us": desk.now_us, "expires_us": expires_us}
    desk.put(
        schema.keys,
        id=made.id,
        account=account,
        label=label,
        pepper=desk.peppers.current,
        digest=desk.peppers.digest_key(made.text),
        scopes=sorted(set(scopes)),
        replaces=replaces,
        **values,
    )
    desk.changed("key", made.id)
    return Done(act, made.id, {"account": account, "expires_us": expires_us}, secret=made.text)
