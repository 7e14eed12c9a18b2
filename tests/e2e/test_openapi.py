"""Conformance of the server to its OpenAPI document, for valid and invalid requests."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from roadwork_serve.api.api_keys import ApiKeyStore, Keyring, new_key
from roadwork_serve.api.auth import Authenticator
from roadwork_serve.api.classify_routes import http_app
from roadwork_serve.api.policy_routes import policy_routes
from tests.api.test_classify_routes import FakeService
from tests.api.test_policy_routes import Service as PolicyService
from tests.e2e.conftest import ROOT, Cluster, eventually

EXAMPLES = 15  # an operation
NO_OTHER_KEYS = ("--generation-with-security-parameters=false",)
CHECKS = """
hooks = "tests.e2e.schemathesis_hooks"

[checks]
# 503 and 504 are answers, where OpenAPI has them: a stage may be busy, and a deadline of a millisecond cannot be kept.
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 503, 504]
# A schema can ask for bytes, a key and a name, but not for a picture, a known key and the name of an answer.
positive_data_acceptance.expected-statuses = ["2xx", 400, 401, 403, 404, 408, 409, 413, 415, 422, 503, 504]
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 408, 413, 415, 422, 503, 504]
"""


@pytest.fixture
def checks(tmp_path: Path) -> Path:
    file = tmp_path / "schemathesis.toml"
    file.write_text(CHECKS)
    return file


def hold_to_its_word(url: str, checks: Path, *options: str, phases: str = "examples,coverage,fuzzing") -> str:
    """Run schemathesis and return its output. Fail with it if the server breaks its contract."""
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        f"--config-file={checks}",
        "run",
        f"{url}/openapi.json",
        "--checks=all",
        f"--phases={phases}",
        f"--max-examples={EXAMPLES}",
        "--generation-deterministic",
        "--continue-on-failure",
        "--request-timeout=20",
        "--no-color",
        *options,
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=checks.parent, env=environment)
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
    return done.stdout


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Yield the address of an application that runs in a thread of this process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            eventually(lambda: server.started, 20, "the server runs")
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


def test_the_server_conforms_to_its_openapi(cluster: Cluster, checks: Path):
    """The thousands of cases of the phase `coverage` go to the same routes without Ray, in the next test."""
    output = hold_to_its_word(cluster.url, checks, phases="examples,fuzzing")
    paths = httpx.get(f"{cluster.url}/openapi.json").json()["paths"]
    operations = sum(len(methods) for methods in paths.values())
    assert operations >= 5 and f"Tested: {operations}" in output
    began = time.monotonic()
    assert httpx.get(f"{cluster.url}/readyz").status_code == 200
    assert time.monotonic() - began < 2


def test_a_server_with_keys_conforms_too(checks: Path):
    secret, key = new_key("tester", "client")
    with serving(http_app(FakeService(), Authenticator(ApiKeyStore(Keyring((key,)))))) as url:
        output = hold_to_its_word(url, checks, f"--header=X-API-Key: {secret}", *NO_OTHER_KEYS)
        assert "returned only 401/403" not in output
        assert secret not in output


def test_policies_of_every_shape_get_documented_answers(checks: Path):
    """Without Ray, because a policy has so many parts that the coverage phase sends thousands.

    `test_pair.py` asks a whole server, with the other phases.
    """
    secret, key = new_key("ann", "admin")
    guard = Authenticator(ApiKeyStore(Keyring((key,))))
    app = http_app(FakeService(), guard)
    for routes in policy_routes(PolicyService(), guard):
        app.include_router(routes)
    options = ("--include-path-regex=policy", f"--header=X-API-Key: {secret}", *NO_OTHER_KEYS)
    with serving(app) as url:
        output = hold_to_its_word(url, checks, *options, phases="coverage")
    assert "Tested: 3" in output
    assert int(re.findall(r"(\d+) generated", output)[0]) > 1_000


def test_a_server_that_violates_its_openapi_is_detected(checks: Path):
    app = http_app(FakeService(), Authenticator(None))

    @app.get("/broken")
    async def broken() -> dict[str, int]:
        raise ValueError("on purpose")

    with serving(app) as url, pytest.raises(AssertionError, match="Server error"):
        hold_to_its_word(url, checks, "--include-path=/broken")
