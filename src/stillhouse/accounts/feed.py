"""Keeping a snapshot fresh: ask the store five times a second, apply what came, say so."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillhouse.accounts.snapshot import Delta, Snapshot
    from stillhouse.accounts.store import Store

_log = logging.getLogger(__name__)
POLL_S = 0.2


def poll(store: Store, snapshot: Snapshot) -> bool:
    """Ask once and apply, in the caller's thread; return whether anything changed."""
    return snapshot.apply(_ask(store, snapshot))


async def follow(
    store: Store,
    snapshot: Snapshot,
    *,
    on_poll: Callable[[bool], None] | None = None,
    period_s: float = POLL_S,
) -> None:
    """Keep `snapshot` fresh until cancelled.

    The store is asked in a thread, its answer applied on the loop's own; then `on_poll` is called
    with whether anything changed (re-check open streams there). A store that fails is asked again:
    the snapshot goes stale after a second and comes back by itself.
    """
    loop = asyncio.get_running_loop()
    failing = False
    while True:
        began_s = loop.time()
        try:
            delta = await asyncio.to_thread(_ask, store, snapshot)
        except (SQLAlchemyError, OSError) as error:
            if not failing:  # once, not five times a second
                _log.error("the accounts' store does not answer (%s)", type(error).__name__)
            failing = True
        else:
            if failing:
                _log.info("the accounts' store answers again")
            failing = False
            changed = snapshot.apply(delta)
            if on_poll is not None:
                on_poll(changed)
        await asyncio.sleep(max(0.0, period_s - (loop.time() - began_s)))


def _ask(store: Store, snapshot: Snapshot) -> Delta:
    delta = store.changes_since(snapshot.sequence)
    # Another database under the same URL (restored, replaced): its numbers mean nothing here.
    return delta if delta.epoch == snapshot.epoch else store.changes_since(-1)
