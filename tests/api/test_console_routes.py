"""The web page's files as they are served."""

import json
import re

import httpx
import pytest

from roadwork_serve import media
from roadwork_serve.api.auth import Authenticator
from roadwork_serve.api.classify_routes import http_app
from roadwork_serve.api.console_routes import FOLDER, SWAGGER_FILES
from roadwork_serve.profiles.media_limits import MediaLimits
from roadwork_serve.profiles.stage_kinds import STAGES
from roadwork_serve.schema import ExitReason
from roadwork_serve.testbed import scenes
from tests.api.test_classify_routes import FakeService

PAGES = ["index.html", "history.html", "label.html", "live.html", "policy.html", "help.html", "docs.html"]
SAMPLES = json.loads((FOLDER / "samples" / "samples.json").read_text())


def client() -> httpx.AsyncClient:
    app = http_app(FakeService(), Authenticator(None))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")


async def test_a_browser_gets_the_page_and_a_program_gets_links():
    async with client() as asked:
        page = await asked.get("/", headers={"Accept": "text/html,application/xhtml+xml;q=0.9"})
        links = await asked.get("/", headers={"Accept": "*/*"})
    assert page.headers["content-type"].startswith("text/html")
    assert "Is there active road work?" in page.text
    assert links.json()["docs"] == "/docs"
    assert page.headers["vary"] == links.headers["vary"] == "Accept"


@pytest.mark.parametrize(
    "path",
    ["/", "/docs", "/openapi.json", "/healthz", "/v1/stats"]
    + [f"/console/{file}" for file in (*PAGES, "console.css", "icon.svg", "docs.js", "swagger/swagger-ui.css")],
)
async def test_every_response_has_a_strict_content_security_policy(path: str):
    async with client() as asked:
        reply = await asked.get(path, headers={"Accept": "text/html"})
    assert reply.status_code == 200
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and "http" not in policy
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"


async def test_an_error_has_the_policy_too():
    async with client() as asked:
        reply = await asked.get("/console/<script>")
    assert reply.status_code == 404
    assert "default-src 'none'" in reply.headers["content-security-policy"]


async def test_the_api_page_loads_swagger_ui_from_this_server():
    async with client() as asked:
        page = await asked.get("/docs")
        files = [await asked.get(f"/console/swagger/{name}") for name in SWAGGER_FILES]
    assert re.findall(r'(?:src|href)="([^"#]+)"', page.text)[-1] == "/console/docs.js"
    assert [file.status_code for file in files] == [200, 200]
    assert files[0].headers["content-type"].startswith("text/javascript")
    assert b"SwaggerUIBundle" in files[0].content and b".swagger-ui" in files[1].content


@pytest.mark.parametrize(
    "path",
    [
        "/console/../http.py",
        "/console/%2e%2e/http.py",
        "/console/nothing.js",
        "/console/swagger/__init__.py",
        "/console/swagger/../main.py",
        "/console/swagger/%2e%2e/main.py",
        "/console/swagger/",
    ],
)
async def test_nothing_else_is_served(path: str):
    async with client() as asked:
        reply = await asked.get(path)
    assert reply.status_code == 404
    assert reply.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_loads_only_files_that_exist_on_the_server(page: str):
    text = (FOLDER / page).read_text()
    asked = re.findall(r'(?:src|href)="([^"#]+)"', text)
    assert asked and all(each == "/docs" or each.startswith("/console/") for each in asked)
    for each in set(asked) - {"/docs"}:
        name = each.removeprefix("/console/")
        assert name.removeprefix("swagger/") in SWAGGER_FILES or (FOLDER / name).is_file()
    assert "<script>" not in text and "style=" not in text and " on" not in re.sub(r">[^<]*<", "><", text)


@pytest.mark.parametrize("script", sorted(file.name for file in FOLDER.glob("*.js")))
def test_scripts_put_no_text_into_a_page_as_markup(script: str):
    text = (FOLDER / script).read_text().replace('"http://www.w3.org/2000/svg"', "")  # a name, which nothing requests
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?://", text)
    assert not re.search(r"sessionStorage|localStorage|indexedDB|\.cookie", text), "a key stays in memory"
    for each in re.findall(r'"\./([^"]+)"', text):
        assert (FOLDER / each).is_file()


def test_every_stage_and_every_exit_reason_has_a_label():
    text = (FOLDER / "words.js").read_text()
    for name in (*STAGES, *ExitReason.__args__):
        assert f"\n  {name}: " in text


def test_every_page_is_in_the_navigation_and_has_its_script():
    navigation, router = (FOLDER / "page.js").read_text(), (FOLDER / "router.js").read_text()
    for page in sorted(set(PAGES) - {"index.html", "docs.html"}):
        assert f'"/console/{page}"' in navigation
        assert f'"/console/{page}": "./{page.removesuffix(".html")}.js"' in router
    anchors = {
        each for page in PAGES for each in re.findall(r'"/console/help.html#([^"]+)"', (FOLDER / page).read_text())
    }
    assert anchors and anchors <= set(re.findall(r'id="([^"]+)"', (FOLDER / "help.html").read_text()))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample["file"])
def test_samples_are_readable_and_credited(sample: dict[str, str]):
    data = (FOLDER / "samples" / sample["file"]).read_bytes()
    read = media.read(data, MediaLimits())
    assert read.kind == ("clip" if "still" in sample else "photo")
    assert ("seed" in sample) != ("credit" in sample)
    if "seed" in sample:
        assert data == scenes.photo(int(sample["seed"])).jpeg()
    assert len(data) < 300_000
