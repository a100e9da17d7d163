"""Several processes follow one store: each learns of a suspension and of its undoing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from tests.accounts.conftest import SECRETS, Office

from stillhouse.accounts import Store
from stillhouse.accounts.acts import Suspend, Undo

FOLLOWER = """
import asyncio, sys
from stillhouse.accounts import Policy, Peppers, Store, database, follow
from stillhouse.exchanges import KeyedDigests

url, secret, pepper = sys.argv[1], bytes.fromhex(sys.argv[2]), bytes.fromhex(sys.argv[3])
key, now_us = sys.stdin.readline().strip(), int(sys.argv[4])
store = Store(database.connect(url), Peppers({1: KeyedDigests(pepper)}), KeyedDigests(secret),
              Policy(), clock=lambda: now_us)
snapshot = store.load_snapshot()
facts = snapshot.authenticate(key, now_us)

def tell(changed):
    denied = snapshot.standing(facts, now_us)
    state = denied.code if denied else "served"
    if state != tell.last:
        tell.last = state
        print(state, flush=True)

tell.last = ""

async def main():
    task = asyncio.create_task(follow(store, snapshot, on_poll=tell))
    await asyncio.to_thread(sys.stdin.read)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

asyncio.run(main())
store.close()
"""


def test_every_process_learns_of_a_suspension_and_its_end(
    office: Office, database_url: str, opened: Callable[..., Store]
) -> None:
    arguments = [SECRETS["secret"].hex(), SECRETS["first"].hex(), str(office.store.clock())]
    followers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", FOLLOWER, database_url, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for follower in followers:
        assert follower.stdin is not None
        follower.stdin.write(office.made.keys[0] + "\n")
        follower.stdin.flush()

    def next_states() -> list[str]:
        """Return what each says next; each speaks when its state has changed."""
        states = []
        for follower in followers:
            assert follower.stdout is not None
            states.append(follower.stdout.readline().strip())
        return states

    try:
        assert next_states() == ["served", "served"]
        suspend = Suspend(scope="account", subject=office.made.accounts[0], reason="case 1")
        measure = office.perform("ann", suspend).subject
        assert next_states() == ["suspended", "suspended"]
        office.perform("ben", Undo(measure=measure, reason="wrong"))
        assert next_states() == ["served", "served"]
    finally:
        for follower in followers:
            follower.communicate()
    assert [follower.returncode for follower in followers] == [0, 0]
