"""A labelling process to be killed: each line on stdin is one run, done by a fork.

Forking from here, where nothing runs and everything is imported, makes a hundred runs cheap.
"""

import json
import os
import signal
import sys
from pathlib import Path

from stillhouse.exchanges import storage
from stillhouse.teachers.budget import Budget, Caps
from stillhouse.teachers.chat import ChatRequest, Message, Sampling
from stillhouse.teachers.endpoint import EndpointSettings, EndpointTeacher
from stillhouse.teachers.labelling import label, open_journal
from stillhouse.teachers.pacing import Backoff
from stillhouse.teachers.scheduler import LabelSettings


def run(order: dict) -> None:
    steps = 0

    def on_step(name: str) -> None:
        nonlocal steps
        steps += 1
        if steps == order["kill_at_step"]:
            os.kill(os.getpid(), signal.SIGKILL)

    if order.get("kill_at_step"):
        storage.on_step = on_step
    requests = {
        str(i): ChatRequest(
            messages=(Message("user", f"prompt {i}"),), sampling=Sampling(max_tokens=16)
        )
        for i in range(order["items"])
    }
    teacher = EndpointTeacher(EndpointSettings(url=order["url"], model="teacher-1"))
    settings = LabelSettings(
        backoff=Backoff(base_us=500, highest_us=2_000), concurrency=8, sync_every_s=0.01
    )
    with open_journal(Path(order["journal"]), teacher) as journal:
        budget = Budget(Caps(requests=order["cap"]), None)
        result = label(requests, teacher, journal, budget, settings=settings)
    answers = {item: reply.text for item, reply in result.answers.items()}
    outcome = {
        "answers": answers,
        "stopped": result.stopped and result.stopped.code,
        "spent": result.spent.requests,
    }
    Path(order["result"]).write_text(json.dumps(outcome))


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            run(order)
            os._exit(0)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
