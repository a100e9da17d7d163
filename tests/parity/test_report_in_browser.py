"""The report opened in a real browser: it shows the verdict, runs nothing and asks nobody."""

from __future__ import annotations

import dataclasses
import shutil
import socketserver
import subprocess
import threading
from pathlib import Path

import pytest
from tests.parity.sheets_for_tests import GOLDS
from tests.parity.test_report import HOSTILE, full, judgement

from stillhouse.parity.report import write_report

CHROMIUM = shutil.which("chromium")


class Listener(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.server.calls.append(self.request.recv(200))  # type: ignore[attr-defined]


def opened(page: Path, profile: Path) -> str:
    """The page's document after a browser has loaded it."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-sync",
            "--disable-background-networking", "--no-first-run", "--disable-component-update",
            f"--user-data-dir={profile}", "--dump-dom", page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: see `make servers`")
def test_hostile_replies_neither_run_nor_call_out(tmp_path: Path) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Listener) as server:
        calls: list[bytes] = []
        server.calls = calls  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        port = server.server_address[1]
        bait = f"<img src=http://127.0.0.1:{port}/x><script>document.title='ran'</script>"
        hostile = HOSTILE + bait
        found = judgement([hostile] * 10 + list(GOLDS)[10:])
        inputs = dataclasses.replace(full(), title=hostile, judgement=found)
        page = write_report(tmp_path, inputs).page
        shown = opened(page, tmp_path / "profile")
        assert calls == []
        control = tmp_path / "control.html"
        control.write_text(f"<title>control</title>{bait}")
        ran = opened(control, tmp_path / "profile")
        server.shutdown()
        thread.join()
    assert "<title>ran</title>" not in shown
    assert "margin" in shown
    assert "<title>ran</title>" in ran, "the bait works where nothing stops it"
    assert calls != []
