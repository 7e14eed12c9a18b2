import json
import os
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from roadwork_serve.cli.classify import classify_files, from_server, in_process
from roadwork_serve.cli.main import app
from roadwork_serve.schema import Exit, Problem, Verdict
from tests.evaluation import fakes
from tests.evaluation.fakes import BLUE, POLICY, RED, jpeg, open_by_colour, write_jpeg

VERDICT = Verdict(
    request_id="r",
    media="photo",
    label="roadwork",
    probability=0.9,
    exit=Exit(stage="backbone", reason="above_band"),
    stages=[],
    policy_version="test-1",
    profile="mini",
    elapsed_ms=3.0,
)


@pytest.fixture(autouse=True)
def colour_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadwork_serve.local_cascade.open_stages", open_by_colour)


async def test_in_process_results_keep_the_order_and_problems_name_their_file(tmp_path: Path) -> None:
    red, blue = write_jpeg(tmp_path / "red.jpg", RED), write_jpeg(tmp_path / "blue.jpg", BLUE)
    text = tmp_path / "notes.jpg"
    text.write_text("these are words")
    paths = [red, text, tmp_path / "gone.jpg", blue]
    done: list[None] = []
    result = await classify_files(paths, in_process(fakes.profile(), POLICY), on_done=lambda: done.append(None))
    assert [entry.filename for entry in result.results] == [str(path) for path in paths]
    assert [entry.verdict.label if entry.verdict else None for entry in result.results] == [
        "roadwork",
        None,
        None,
        "none",
    ]
    problems = [entry.problem for entry in result.results if entry.problem]
    assert [(problem.status, problem.type.rpartition(":")[2]) for problem in problems] == [
        (415, "unsupported-media"),
        (400, "bad-request"),
    ]
    assert "No such file" in problems[1].detail
    assert len(done) == 4


async def test_a_server_gets_the_bytes_and_the_deadline(tmp_path: Path) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, text=VERDICT.model_dump_json())

    path = write_jpeg(tmp_path / "red.jpg", RED)
    server = from_server("127.0.0.1:8000/v1/classify", 2000, transport=httpx.MockTransport(answer))
    result = await classify_files([path], server)
    assert result.results[0].verdict == VERDICT
    assert str(asked[0].url) == "http://127.0.0.1:8000/v1/classify?deadline_ms=2000"
    assert asked[0].content == jpeg(RED)
    assert asked[0].headers["content-type"] == "application/octet-stream"
    assert asked[0].headers["x-file-name"] == "red.jpg"


TOO_LARGE = Problem(type="urn:roadwork:problem:media-too-large", title="t", status=413, detail="32 MB at most")


@pytest.mark.parametrize(
    ("response", "status", "slug", "message"),
    [
        (httpx.Response(413, text=TOO_LARGE.model_dump_json()), 413, "media-too-large", "32 MB at most"),
        (httpx.Response(200, text="<html>hello</html>"), 502, "not-roadwork", "is it a roadwork server?"),
        (httpx.Response(404, text=json.dumps({"detail": "no"})), 502, "not-roadwork", "answered 404"),
        (httpx.ConnectError("refused"), 503, "unreachable", "refused; is `roadwork serve` running there?"),
        (httpx.ReadTimeout(""), 503, "unreachable", "ReadTimeout"),
    ],
)
async def test_a_response_that_is_no_verdict_becomes_a_problem(
    tmp_path: Path, response: httpx.Response | Exception, status: int, slug: str, message: str
) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        if isinstance(response, Exception):
            raise response
        return response

    server = from_server("http://here", transport=httpx.MockTransport(answer))
    result = await classify_files([write_jpeg(tmp_path / "red.jpg", RED)], server)
    problem = result.results[0].problem
    assert problem is not None
    assert (problem.status, problem.type.rpartition(":")[2]) == (status, slug)
    assert message in problem.detail


def test_json_has_every_result_whatever_the_names(tmp_path: Path) -> None:
    paths = [write_jpeg(tmp_path / os.fsdecode(name), RED) for name in (b"plain.jpg", b"stra\xdfe.jpg")]
    names = [str(path) for path in (*paths, tmp_path / os.fsdecode(b"gone\xff.jpg"), tmp_path)]
    arguments = ["--profile", "mini", "--policy", fakes.write_policy(tmp_path / "policy.yaml")]
    result = CliRunner().invoke(app, ["classify", "--json", *arguments, *names])
    assert result.exit_code == 1, result.output
    plain, odd, gone, folder = json.loads(result.stdout)["results"]
    assert odd["filename"] == rf"{tmp_path}/stra\xdfe.jpg" and plain["verdict"]["label"] == odd["verdict"]["label"]
    assert r"gone\xff.jpg" in gone["filename"] and "No such file" in gone["problem"]["detail"]
    assert "`roadwork score` reads folders" in folder["problem"]["detail"]
