"""A million requests from 10^5 accounts and a million addresses: how much does the process grow?

The gateway runs as users start it, with the default tier's caps (the one organisation's raised,
as all accounts are in it), a limit for every address, and a trusted proxy's X-Forwarded-For that
names another address with every request, IPv4 and IPv6 in turns. Every prompt is another one;
every tenth key is a wrong one. What is bounded (caches, throttle, 200,000 sightings) has been full
and emptied several times after the warm-up of a million, in which every account is served nine
times: the allocator has then seen its worst. `memory_growth_mib_per_million` is resident
memory at the end less that after the warm-up, for a million requests; `high` takes the largest
seen instead of the last.

    python -m benchmarks.gateways.memory [--smoke]
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path

from benchmarks.gateways import rig
from benchmarks.gateways.part import Part, as_caps, fill, gateway, part, write
from stillhouse.accounts.tiers import DEFAULT_TIERS

ACCOUNTS, WARM_UP, REQUESTS = 100_000, 1_000_000, 1_000_000
PIECE_S = 20
CONNECTIONS = 16
HOPS = {"count": 1, "networks": ["127.0.0.1/32"]}
LUA = """
local keys = {{}}
for line in io.lines("{keys}") do keys[#keys + 1] = line end
local n = {first}
request = function()
  n = n + 1
  local key, address = keys[n % #keys + 1], nil
  if (n + math.floor(n / #keys)) % 10 == 0 then key = string.sub(key, 1, -9) .. "AAAAAAAA" end
  if n % 2 == 0 then
    address = string.format("2a%02x:%x:%x::%x", n % 8, n % 65521, n % 65519, n % 97 + 1)
  else
    address = string.format("%d.%d.%d.%d", 11 + n % 89, n % 251, math.floor(n / 251) % 256,
      math.floor(n / 64256) % 250 + 1)
  end
  return wrk.format("POST", nil, {{
    ["content-type"] = "application/json",
    ["authorization"] = "Bearer " .. key,
    ["x-forwarded-for"] = address,
  }}, '{{"model":"small","messages":[{{"role":"user","content":"What about ' .. n .. '?"}}]}}')
end
done = function(summary)
  io.write(string.format('{{"requests":%d,"refused":%d,"failed":%d}}\\n', summary.requests,
    summary.errors.status, summary.errors.connect + summary.errors.read + summary.errors.timeout))
end
"""


class Load:
    """Requests from where the last piece ended."""

    def __init__(self, folder: Path, port: int, keys: Path):
        self.sent = self.refused = self.failed = 0
        self._script = folder / "memory.lua"
        self._keys = keys
        self._url = f"http://127.0.0.1:{port}/v1/chat/completions"

    def piece(self, seconds: int) -> None:
        """Load for some seconds."""
        self._script.write_text(LUA.format(keys=self._keys, first=self.sent))
        done = subprocess.run(
            [
                *("wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "30s"),
                *("-s", str(self._script), self._url),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        told = json.loads(done.stdout.strip().splitlines()[-1])
        self.sent += told["requests"]
        self.refused += told["refused"]
        self.failed += told["failed"]


def measure(run: Part) -> None:
    """Load, watch the memory, tell."""
    accounts = 3_000 if run.smoke else ACCOUNTS
    warm_up, requests = (3_000, 5_000) if run.smoke else (WARM_UP, REQUESTS)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(rig.nginx(run.folder))
        port = rig.free_port()
        address = {"scope": "address", "measure": "requests", "amount": 600, "window_s": 60.0}
        path = write(
            run.folder / "gateway.yaml",
            f"127.0.0.1:{port}",
            url,
            more_limits=[address],
            trusted_hops=HOPS,
        )
        keys = run.folder / "keys.txt"
        made = fill(path, accounts, as_caps(DEFAULT_TIERS[0].caps, organisation=accounts))
        keys.write_text("\n".join(made.keys) + "\n")
        os.sched_setaffinity(0, {rig.LOADING})
        process = stack.enter_context(
            rig.started(gateway(path), port, core=rig.MEASURED, wait_s=600)
        )
        load = Load(run.folder, port, keys)
        seen: list[tuple[int, float]] = []
        while load.sent < warm_up + requests:
            load.piece(1 if run.smoke else PIECE_S)
            seen.append((load.sent, rig.rss_mib(process.pid)))
            print(f"{load.sent:9} requests {seen[-1][1]:9.1f} MiB", flush=True)
    share = load.refused / load.sent
    if load.failed or not 0.09 < share < 0.11:
        raise SystemExit(f"{load.failed} failed, {share:.3f} refused instead of 0.1: no figure")
    first = next(at for at, (sent, _) in enumerate(seen) if sent >= warm_up)
    begun, before = seen[first]
    millions = (load.sent - begun) / 1e6
    most = max(mib for _, mib in seen[first:])
    run.tell(
        "memory_growth_mib_per_million",
        (seen[-1][1] - before) / millions,
        "MiB",
        high=(most - before) / millions,
    )


if __name__ == "__main__":
    with part(__doc__) as found:
        measure(found)
