"""Starting the program that runs a server."""

import os
import signal
import sys
from pathlib import Path

import pytest

from deployments import serve_program


def test_a_server_whose_parent_ignores_sigint_stops_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Path) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    (tmp_path / "serve.yaml").write_text("applications: []\n")
    monkeypatch.setattr(serve_program, "publishing", interrupted)
    monkeypatch.setattr(sys, "argv", ["serve_program", str(tmp_path / "serve.yaml")])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt):
            serve_program.main()
    finally:
        signal.signal(signal.SIGINT, before)
