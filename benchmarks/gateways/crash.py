"""A gateway process killed at random under load, over and over: what do its books lack afterwards?

Twelve clients ask, whole and streamed, while `kill -9` ends the process at random moments and it
is started again on the same state. Then clients' notes and the upstream's are held against the
exchanges and the limits: an exchange that a client was served whole must be recorded as served
(`lost`), whatever reached the upstream must be recorded and charged (`free`), nothing twice
(`twice`), and the limits must hold at least what the records say, at most what was in hand at
each kill more. `crash_lost_exchanges` is the sum of all four over every kill.

    python -m benchmarks.gateways.crash [--smoke]
"""

from __future__ import annotations

from tests.gateway.killing import killed_under_load

from benchmarks.gateways.part import Part, part

SEEDS, KILLS = 12, 10


def measure(run: Part) -> None:
    """Kill, read the books, tell."""
    seeds, kills = (1, 2) if run.smoke else (SEEDS, KILLS)
    wrong = crashed = 0
    for seed in range(seeds):
        books = killed_under_load(run.folder / str(seed), seed=seed, kills=kills)
        charged = 0 <= books.over_nano <= 2 * kills * books.largest_nano
        wrong += books.lost + books.free + books.twice + (not charged)
        crashed += books.crashed
        print(f"seed {seed}: {kills} kills: {books}", flush=True)
    if not crashed:
        raise SystemExit("nothing was open at any kill: this shows nothing")
    print(f"{seeds * kills} kills; {crashed} requests were open at one and paid their reservation")
    run.tell("crash_lost_exchanges", wrong, "count")


if __name__ == "__main__":
    with part(__doc__) as found:
        measure(found)
