"""`roadwork demo`, and the server that it starts."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from roadwork_serve.cli import server_client
from roadwork_serve.cli.main import app
from roadwork_serve.cli.own_server import own_server
from roadwork_serve.client import Client
from roadwork_serve.errors import ModelError
from roadwork_serve.schema import Verdict

_EXAMPLE = json.loads((Path(server_client.__file__).parents[1] / "api/verdict_example.json").read_text())
# A program that takes the arguments of `roadwork serve` and is ready at once.
_READY = """
import http.server, pathlib, sys
words = dict(zip(sys.argv[2::2], sys.argv[3::2]))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
pathlib.Path(words["--state"]).mkdir()
http.server.HTTPServer(("127.0.0.1", int(words["--port"])), Handler).serve_forever()
"""


BOX = {"x0": 0.25, "y0": 0.5, "x1": 0.5, "y1": 0.75}


def test_it_prints_a_row_for_each_sample_and_fails_if_one_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def classify(client: Client, file: Path) -> Verdict:
        evidence = {"regions": [{"kind": "cone", "probability": 0.9, "frame": 2, "box": BOX}]}
        stages = [_EXAMPLE["stages"][0] | {"evidence": evidence}, *_EXAMPLE["stages"][1:]]
        return Verdict.model_validate(_EXAMPLE | {"label": labels[file.name], "media": "clip", "stages": stages})

    samples = json.loads((Path(server_client.__file__).parents[1] / "console/samples/samples.json").read_text())
    labels: dict[str, Any] = {each["file"]: each["label"] for each in samples}
    monkeypatch.setattr(Client, "classify", classify)
    words = ["demo", "--server", "http://127.0.0.1:1", "--out", str(tmp_path / "new/demo.json")]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert f"{len(samples)} of {len(samples)} correct." in result.stdout and samples[0]["file"] in result.stdout
    rows = json.loads((tmp_path / "new/demo.json").read_text())
    assert "cone 0.90 in frame 3, 0.25 to 0.50 across, 0.50 to 0.75 down" in result.stdout
    assert [each["file"] for each in rows] == list(labels) and rows[0]["exit_stage"] == _EXAMPLE["exit"]["stage"]
    labels[samples[0]["file"]] = "none" if labels[samples[0]["file"]] == "roadwork" else "roadwork"
    assert CliRunner().invoke(app, words).exit_code == 1


def test_it_starts_a_server_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    @contextmanager
    def own(profile: str) -> Iterator[str]:
        asked.append(profile)
        yield "http://127.0.0.1:2"

    monkeypatch.setattr("roadwork_serve.cli.own_server.own_server", own)
    monkeypatch.setattr(Client, "classify", lambda client, file: Verdict.model_validate(_EXAMPLE))
    CliRunner().invoke(app, ["demo", "--profile", "mini"])
    assert asked == ["mini"]


def test_a_server_is_waited_for_and_stopped_with_its_folder() -> None:
    with own_server("mini", (sys.executable, "-c", _READY)) as url:
        assert httpx.get(f"{url}/readyz").status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/readyz")


def test_a_server_that_ends_is_an_error_with_its_output() -> None:
    began = time.monotonic()
    with (
        pytest.raises(ModelError, match=r"run `roadwork doctor`.*\nthere is no model"),
        own_server("mini", (sys.executable, "-c", "import sys; sys.exit('there is no model')")),
    ):
        pass
    assert time.monotonic() - began < 60
