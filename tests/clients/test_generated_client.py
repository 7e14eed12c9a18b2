"""A client that openapi-python-client generates from the server's OpenAPI document, and a typed verdict through it."""

import importlib
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from openapi_python_client import generate
from openapi_python_client.config import Config, ConfigFile, MetaType

from roadwork_serve.api.auth import Authenticator
from roadwork_serve.api.classify_routes import http_app
from roadwork_serve.testbed import scenes
from tests.api.test_classify_routes import FakeService
from tests.clients.conftest import Files
from tests.test_client_routes import Bridge

NAME = "generated_roadwork_client"
#: A file of the journal has the type of its own bytes.
BYTES = "application/octet-stream"
SETTINGS = ConfigFile(content_type_overrides={"*/*": BYTES, "image/jpeg": BYTES}, post_hooks=[], literal_enums=True)
OPERATIONS = {
    "classify": {"classify", "classify_batch"},
    "jobs": {"create_job", "job", "jobs", "cancel_job"},
    "journal": {"journal", "journal_media", "journal_thumbnail", "label", "withdraw_label", "preview_policy"},
    "policy": {"policy", "put_policy", "rollback_policy"},
    "status": {"health", "ready", "info", "stats"},
}


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """Yield the client of the document of a server with keys. Fails if the generator warns of anything."""
    from docs import reference

    folder = tmp_path_factory.mktemp("generated")
    document = folder / "openapi.json"
    document.write_text(reference.openapi())
    config = Config.from_sources(SETTINGS, MetaType.NONE, document, "utf-8", False, folder / NAME)
    assert [f"{each.header}: {each.detail}" for each in generate(config=config)] == []
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module(NAME)
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
            del sys.modules[name]


def part(name: str) -> ModuleType:
    return importlib.import_module(f"{NAME}.{name}")


def test_every_operation_has_a_plain_name_and_a_tag(generated: ModuleType) -> None:
    folder = Path(str(generated.__file__)).parent / "api"
    found = {
        tag.name: {file.stem for file in tag.glob("*.py") if file.stem != "__init__"}
        for tag in folder.iterdir()
        if tag.is_dir() and tag.name != "__pycache__"
    }
    assert found == OPERATIONS


def test_a_verdict_and_a_problem_are_typed(generated: ModuleType) -> None:
    app = http_app(FakeService(), Authenticator(None))
    client = generated.Client("http://127.0.0.1")
    client.set_httpx_client(httpx.Client(transport=Bridge(app), base_url="http://127.0.0.1"))
    classify, types = part("api.classify.classify").sync, part("types")
    verdict = classify(client=client, body=types.File(BytesIO(scenes.photo(7).jpeg())), deadline_ms=5000)
    assert isinstance(verdict, part("models").Verdict)
    assert verdict.label == "roadwork" and verdict.positive is True and verdict.exit_.stage == "backbone"
    problem = classify(client=client, body=types.File(BytesIO(b"bad")))
    assert isinstance(problem, part("models").Problem) and problem.status == 422


def test_a_server_answers_a_generated_client(generated: ModuleType, url: str, files: Files) -> None:
    with generated.Client(url.removesuffix("/v1/classify"), timeout=httpx.Timeout(30)) as client:
        with files.photo.open("rb") as photo:
            verdict = part("api.classify.classify").sync(client=client, body=part("types").File(photo))
        info = part("api.status.info").sync(client=client)
    assert isinstance(verdict, part("models").Verdict) and verdict.media == "photo"
    assert info.task.positive == "pothole" and verdict.label in ("pothole", "none")
    assert info.version == httpx.get(f"{client._base_url}/openapi.json").json()["info"]["version"]
