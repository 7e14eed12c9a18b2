"""Tests of the outcomes that replies are mapped to."""

import json

import pytest

from benchmarks.chaos.outcomes import Reply, parse_reply
from benchmarks.chaos.plan import File
from tests.benchmarks.chaos_runs import CLIP, HOSTILE, STILL, record, verdict


def problem(status: int, slug: str = "x", instance: str = "r", inside: int | None = None) -> Reply:
    document = {"type": f"urn:roadwork:problem:{slug}", "title": "t", "status": inside or status, "detail": "d"}
    return Reply(status, "application/problem+json", json.dumps(document | {"instance": instance}).encode())


def answer(request_id: str = "r") -> Reply:
    return Reply(200, "application/json", verdict(0.95, request_id=request_id).model_dump_json().encode())


@pytest.mark.parametrize(
    ("reply", "file", "outcome"),
    [
        (answer(), STILL, "answered"),
        (answer("another"), STILL, "wrong"),
        (answer(), HOSTILE, "wrong"),
        (answer(), CLIP, "wrong"),  # it says photo
        (Reply(200, "application/json", b"{}"), STILL, "wrong"),
        (problem(503), STILL, "refused"),
        (problem(429), STILL, "refused"),
        (problem(504), HOSTILE, "refused"),
        (problem(413), HOSTILE, "client error"),
        (problem(422), HOSTILE, "wrong"),
        (problem(413), STILL, "wrong"),
        (problem(500), STILL, "wrong"),
        (problem(503, instance="another"), STILL, "wrong"),
        (problem(503, inside=504), STILL, "wrong"),
        (Reply(503, "application/problem+json", b"<html>"), STILL, "wrong"),
        (Reply(500, "text/plain", b"Internal Server Error"), STILL, None),
        (Reply(503, "text/plain", b""), STILL, None),
        (Reply(404, "text/plain", b"Path '/v1/classify' not found."), STILL, None),
        (Reply(408, "text/plain", b""), STILL, "wrong"),
    ],
)
def test_a_reply_has_the_right_outcome(reply: Reply, file: File, outcome: str | None) -> None:
    assert parse_reply(reply, file, "r").outcome == outcome


def test_an_answer_is_late_beyond_deadline_lag_and_slack() -> None:
    assert record(took_s=1.04).in_time(0.05)
    assert not record(took_s=1.06).in_time(0.05)
    assert record(took_s=1.06, lag_s=0.02).in_time(0.05)
    assert not record(outcome="refused", took_s=0.1).in_time(0.05)
