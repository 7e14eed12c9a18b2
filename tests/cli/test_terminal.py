"""Commands print no text of a server, a file or a chain that a terminal would obey."""

import ast
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from roadwork_serve.cli.main import app
from roadwork_serve.journal.record import Annotation
from roadwork_serve.journal.store import Store
from roadwork_serve.miner.leaderboard import Leaderboard, NeuronStanding
from roadwork_serve.schema import Evidence, Problem, TextLine
from tests.cli.test_policy import POLICY, REVISION
from tests.journal.made import entry, report, verdict

EVIL = (
    "\x1b]0;title\x07\x1b]52;c;YQ==\x1b\\\x1b[5;35m\x1b[2J\x9b5m\x9d8;;http://evil.example\x9c\x7f\x08\u202eevil\u2066"
    "[link=http://evil.example]click[/link] [blink]\r\nforged: line"
)
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
OWN_STYLES = re.compile("\x1b\\[(?:0|1|2|31|33)m")
ROOT = Path(__file__).parents[2]


def evil_problem() -> tuple[int, str]:
    return 409, Problem(
        type="urn:roadwork:problem:policy-conflict", title=EVIL, status=409, detail=EVIL
    ).model_dump_json()


def evil_state() -> tuple[int, str]:
    revision = REVISION | {"version": EVIL[:120], "author": EVIL, "created_at": EVIL}
    return 200, json.dumps({"revision": 2, "version": EVIL, "rollout": {"policy": POLICY}, "history": [revision]})


def evil_change() -> tuple[int, str]:
    return 200, json.dumps({"revision": 2, "version": EVIL, "replicas": 1})


def evil_verdict() -> tuple[int, str]:
    line = TextLine(text=EVIL, confidence=0.9, meaning="begin", box={"x0": 0, "y0": 0, "x1": 1, "y1": 1})  # type: ignore[arg-type]
    stage = report("signs", 0.5, evidence=Evidence(text_lines=[line], reasoning=EVIL), detail=EVIL, model=EVIL)
    return 200, verdict(EVIL, stages=(stage,), policy_version=EVIL, profile=EVIL).model_dump_json()


def no_roadwork() -> tuple[int, str]:
    return 200, EVIL


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Return a list whose first entry is the answer of every server."""
    answers: list[tuple[int, str]] = []

    def respond(_: httpx.Request) -> httpx.Response:
        return httpx.Response(answers[0][0], text=answers[0][1])

    for name in ("Client", "AsyncClient"):
        real = getattr(httpx, name)
        monkeypatch.setattr(
            httpx, name, lambda real=real, **given: real(**given | {"transport": httpx.MockTransport(respond)})
        )
    monkeypatch.setenv("COLUMNS", "2000")
    return answers


def output_of(*words: str) -> str:
    """Return what a command prints to a terminal with colors, after a check that all of it is harmless."""
    result = CliRunner().invoke(app, list(words), color=True)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    output = OWN_STYLES.sub("", result.output)
    assert (found := UNSAFE.search(output)) is None, (found, output)
    assert "\nforged" not in output
    return output


@pytest.mark.parametrize(
    "words",
    [["policy", "show"], ["policy", "show", "--json"], ["policy", "rollback"], ["policy", "put", "mini"]],
    ids=" ".join,
)
@pytest.mark.parametrize("given", [evil_state, evil_change, evil_problem, no_roadwork])
def test_policy_commands(answer: list[tuple[int, str]], words: list[str], given: Callable[[], tuple[int, str]]) -> None:
    answer.append(given())
    assert output_of(*words)


@pytest.mark.parametrize("more", [[], ["--json"]], ids=["table", "json"])
@pytest.mark.parametrize("given", [evil_verdict, evil_problem, no_roadwork])
def test_classify(
    answer: list[tuple[int, str]], tmp_path: Path, more: list[str], given: Callable[[], tuple[int, str]]
) -> None:
    answer.append(given())
    file = tmp_path / "a\x1b[5;35m\u202e.jpg"
    file.write_bytes(b"photo")
    output = output_of("classify", str(file), "--server", "http://there", *more)
    assert "evil" in output
    if more:
        (result,) = json.loads(output)["results"]
        assert result["filename"] == str(file)
        if given is evil_verdict:
            assert result["verdict"]["stages"][0]["evidence"]["reasoning"] == EVIL


@pytest.mark.parametrize(
    "words",
    [["list"], ["list", "--json"], ["show", "a"], ["rank"], ["rank", "--json"], ["stats"], ["label", "a", EVIL]],
    ids=lambda words: " ".join(words[:2]).replace(EVIL, "evil"),
)
def test_journal_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setenv("COLUMNS", "2000")
    url = f"sqlite:///{tmp_path / 'journal.db'}"
    given: dict[str, Any] = {"policy_version": EVIL[:100], "request_id": EVIL[:100]}
    stage = report("signs", 0.5, evidence=Evidence(reasoning=EVIL), detail=EVIL, model=EVIL)
    store = Store.open(url)
    store.commit([entry("a", 0.6, time.time(), key=EVIL, verdict=given | {"stages": [stage]})])
    store.annotate([("a", Annotation("none", EVIL, 1.0, EVIL))])
    store.close()
    assert output_of("journal", *words, "--journal", url)
    out = tmp_path / "out.csv"
    assert output_of("journal", "export", str(out), "--journal", url)
    assert UNSAFE.search(out.read_text(encoding="utf-8")) is None


@pytest.mark.parametrize("more", [[], ["--json"]], ids=["table", "json"])
def test_monitor(monkeypatch: pytest.MonkeyPatch, more: list[str]) -> None:
    neuron = NeuronStanding(1, EVIL, 1, 0.1, 0.1, 0.1, 0.1, 1.0, False, True, 1.0, EVIL)
    board = Leaderboard(72, EVIL, 1, 360, 1, 1, 1.0, (neuron,), (neuron,), (EVIL,))

    async def found(*_: object) -> Leaderboard:
        return board

    monkeypatch.setattr("roadwork_serve.miner.leaderboard.leaderboard", found)
    monkeypatch.setenv("COLUMNS", "2000")
    assert "evil" in output_of("monitor", *more)


def test_monitor_of_a_chain_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def found(*_: object) -> Leaderboard:
        raise OSError(EVIL)

    monkeypatch.setattr("roadwork_serve.miner.leaderboard.leaderboard", found)
    assert "cannot be read" in output_of("monitor", "--network", "test")


@pytest.mark.parametrize(
    "file",
    [
        *sorted((ROOT / "roadwork_serve/cli").glob("*.py")),
        ROOT / "roadwork_serve/progress.py",
        ROOT / "roadwork_serve/miner/preflight.py",
        ROOT / "deployments/batch_job.py",
        ROOT / "miner.py",
    ],
    ids=lambda file: file.stem,
)
def test_commands_write_only_through_the_terminal_module(file: Path) -> None:
    direct = {"print", "typer.echo", "typer.secho", "click.echo", "Console", "rich.print", "sys.stdout.write"}
    calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)}
    assert not calls & direct
