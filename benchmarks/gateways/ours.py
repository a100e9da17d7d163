"""The whole gateway as the benchmark runs it: accounts made, tier wide open, everything on.

`python -m benchmarks.gateways.ours FOLDER PORT UPSTREAM_URL ACCOUNTS [LIMITS_URL [STORE_URL]]`
writes FOLDER/keys.txt (one key a line) and FOLDER/gateway.yaml, then serves. With
STILLHOUSE_SAMPLE=FILE where the processor's time goes is sampled into FILE. STILLHOUSE_STEP=relay
leaves out all limits but one and the recording of exchanges, STILLHOUSE_STEP=limits the recording
alone: no setting of the product does that, so it is done to the process from here.
"""

from __future__ import annotations

import atexit
import collections
import os
import signal
import sys
from pathlib import Path
from types import FrameType

import yaml

from stillhouse.accounts import furnish, open_store
from stillhouse.accounts.acts.settings import DefineTier
from stillhouse.cli.gateway import _run, _serve
from stillhouse.gateway.config import read_config
from stillhouse.gateway.recorder import Recorder

# As the default tiers, far wider: what is measured is the work of deciding, not refusals.
CAPS = [
    {"scope": "account", "measure": "concurrency", "amount": 1000},
    {"scope": "account", "measure": "requests", "amount": 10**8, "window_us": 60_000_000},
    {"scope": "account", "measure": "requests", "amount": 10**9, "window_us": 86_400_000_000},
    {"scope": "account", "measure": "input_tokens", "amount": 10**13, "window_us": 86_400_000_000},
    {"scope": "account", "measure": "output_tokens", "amount": 10**12, "window_us": 86_400_000_000},
    {
        "scope": "account",
        "measure": "distinct_prompts",
        "amount": 10**6,
        "window_us": 86_400_000_000,
    },
    {
        "scope": "organisation",
        "measure": "output_tokens",
        "amount": 10**13,
        "window_us": 86_400_000_000,
    },
    {"scope": "key", "measure": "requests", "amount": 10**8, "window_us": 3_600_000_000},
]


# What stands in front of the model without limits and recording, and with limits alone.
STEPS = {"relay": "keys, rebuilding, ledger", "limits": "and limits"}


def write(folder: Path, port: int, url: str, limits: str, store_url: str, *, limited: bool) -> Path:
    """Write the configuration."""
    model = {
        "name": "small",
        "upstreams": [{"url": url}],
        "surfaces": ["chat", "messages"],
        "max_output_tokens": 256,
        "default_output_tokens": 64,
        "price_in_nano": 100,
        "price_out_nano": 300,
    }
    value = {
        "listen": f"127.0.0.1:{port}",
        "models": [model],
        "limits": limits,
        "accounts": store_url,
    }
    if limited:
        value["more_limits"] = [
            {"scope": "address", "measure": "requests", "amount": 10**9, "window_s": 60.0},
            {"scope": "global", "measure": "requests", "amount": 10**10, "window_s": 60.0},
        ]
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(value))
    return path


def sample(path: str) -> None:
    """Count the innermost frames at every millisecond of processor time."""
    own: collections.Counter[str] = collections.Counter()
    within: collections.Counter[str] = collections.Counter()

    def note(_: int, frame: FrameType | None) -> None:
        seen = set()
        first = True
        while frame is not None:
            code = frame.f_code
            name = (
                f"{Path(code.co_filename).parent.name}/{Path(code.co_filename).name}:{code.co_name}"
            )
            if first:
                own[name] += 1
                first = False
            if name not in seen:
                seen.add(name)
                within[name] += 1
            frame = frame.f_back

    def write_down() -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        total = sum(own.values())
        with Path(path).open("w") as file:
            for title, counts in (("own", own), ("within", within)):
                for name, count in counts.most_common(60):
                    file.write(f"{title} {100 * count / total:5.1f} % {name}\n")

    signal.signal(signal.SIGPROF, note)
    signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
    atexit.register(write_down)


def main() -> None:
    """Make what is missing, then serve."""
    folder, port, url = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    accounts = int(sys.argv[4])
    limits, store_url = (*sys.argv[5:], "memory", "accounts.sqlite")[:2]
    step = os.environ.get("STILLHOUSE_STEP")
    path = write(folder, port, url, limits, store_url, limited=step != "relay")
    config = read_config(path)
    if not (folder / "keys.txt").exists():
        store = open_store(config.accounts, secrets=config.secrets)
        made = furnish(store, accounts=accounts)
        caps = [{"burst": 0, **cap} for cap in (CAPS[:1] if step == "relay" else CAPS)]
        for cap in caps:
            if cap["measure"] not in ("concurrency", "distinct_prompts"):
                cap["burst"] = cap["amount"] // 2
        tier = DefineTier(name="new", level=0, caps=caps, max_output_tokens=2048)
        store.perform(made.operator, tier)
        store.close()
        (folder / "keys.txt").write_text("\n".join(made.keys) + "\n")
    if step is not None:
        Recorder.add = lambda *_: None  # type: ignore[method-assign]
    if "STILLHOUSE_SAMPLE" in os.environ:
        sample(os.environ["STILLHOUSE_SAMPLE"])
    _run(_serve(config, path, {}))


if __name__ == "__main__":
    main()
