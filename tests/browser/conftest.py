"""A server with keys and a headless Chromium; `make test-browser` installs what these tests need."""

import importlib.util
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
import uvicorn

from benchmarks.server import started
from roadwork_serve.api.api_keys import new_key
from roadwork_serve.api.auth import Authenticator
from tests.browser.journal_server import PotholeService, drive_records, journal_app, pothole_records

if TYPE_CHECKING:
    from fastapi import FastAPI
    from playwright.sync_api import Browser, Page

HERE = Path(__file__).parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCREENS = os.environ.get("ROADWORK_SCREENS")  # a folder for pictures of the pages


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip these tests where there is no browser."""
    missing = "playwright is" if importlib.util.find_spec("playwright") is None else "" if CHROMIUM else "Chromium is"
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(400))
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"{missing} not installed here; `make test-browser` runs this"))


@pytest.fixture(scope="session")
def secret() -> tuple[str, str]:
    """Return an admin's key, and the environment in which a server accepts it."""
    secret, key = new_key("console", "admin")
    return secret, key.entry()


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory, secret: tuple[str, str]) -> Iterator[str]:
    """Yield the URL of a server that stores media and has classified a few scenes."""
    args = {"profile": "mini", "overrides": {"journal": {"max_media_gib": 0.5}}}
    folder = tmp_path_factory.mktemp("console")
    with started(folder / "log", args, {"ROADWORK_KEYS": secret[1]}) as server:
        yield server.url


@pytest.fixture(scope="session")
def journal_url(tmp_path_factory: pytest.TempPathFactory, secret: tuple[str, str]) -> Iterator[str]:
    """Yield the URL of a server without models, whose journal holds made-up answers."""
    auth = Authenticator.from_environment(1, {"ROADWORK_KEYS": secret[1]})
    with served(journal_app(tmp_path_factory.mktemp("journal"), auth)) as url:
        yield url


@pytest.fixture(scope="session")
def pothole_url(tmp_path_factory: pytest.TempPathFactory, secret: tuple[str, str]) -> Iterator[str]:
    """Yield the same for another task than road work, with a stage of another package."""
    auth = Authenticator.from_environment(1, {"ROADWORK_KEYS": secret[1]})
    app = journal_app(tmp_path_factory.mktemp("potholes"), auth, PotholeService(), pothole_records())
    with served(app) as url:
        yield url


@pytest.fixture(scope="session")
def drive_url(tmp_path_factory: pytest.TempPathFactory, secret: tuple[str, str]) -> Iterator[str]:
    """Yield the URL of a server whose journal holds the frames of a drive."""
    auth = Authenticator.from_environment(1, {"ROADWORK_KEYS": secret[1]})
    with served(journal_app(tmp_path_factory.mktemp("drive"), auth, made=drive_records())) as url:
        yield url


@contextmanager
def served(app: "FastAPI") -> Iterator[str]:
    """Run an application, and yield its URL."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as bound:
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        server.should_exit = True
        thread.join()


class Tab(Protocol):
    """Opens a page of the console."""

    def __call__(self, path: str) -> "Page": ...


@pytest.fixture(params=["desktop", "phone"])
def tab(request: pytest.FixtureRequest, browser: "Browser", journal_url: str, secret: tuple[str, str]) -> Iterator[Tab]:
    """Return a function that opens a page, with the key, in a light window or on a dark phone."""
    with tabs(browser, journal_url, secret[0], request.param, dark=request.param == "phone") as open_page:
        yield open_page


@pytest.fixture(params=["desktop", "phone"])
def other_tab(
    request: pytest.FixtureRequest, browser: "Browser", journal_url: str, secret: tuple[str, str]
) -> Iterator[Tab]:
    """Return the same in the other colors: a dark window or a light phone."""
    with tabs(browser, journal_url, secret[0], request.param, dark=request.param == "desktop") as open_page:
        yield open_page


@contextmanager
def tabs(browser: "Browser", url: str, key: str, device: str, dark: bool) -> Iterator[Tab]:
    """Yield a function that opens a page, with the key.

    Fails on an error, a request to another server, or a page that is wider than its window.
    """
    context = browser.new_context(
        base_url=url,
        viewport={"width": 1180, "height": 900} if device == "desktop" else {"width": 375, "height": 740},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
        timezone_id="UTC",
        locale="en-GB",
    )
    opened: list[tuple[list[str], Page]] = []

    def open_page(path: str) -> "Page":
        opened.append(watched(context.new_page(), url))
        page = opened[-1][1]
        page.set_default_timeout(30_000)
        page.goto(f"{path}#token={key}")
        page.get_by_role("heading", level=1).wait_for()
        return page

    yield open_page
    for wrong, page in opened:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing hangs over the edge"
        assert wrong == []
    context.close()


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: "Browser", url: str, secret: tuple[str, str]) -> Iterator["Page"]:
    """Yield a tab with the console and the key. Fails on an error or a request to another server."""
    context = browser.new_context(base_url=url, viewport={"width": 1180, "height": 900}, reduced_motion="reduce")
    wrong, page = watched(context.new_page(), url)
    page.goto("/")
    enter_key(page, secret[0])
    yield page
    context.close()
    assert wrong == []


def enter_key(page: "Page", key: str) -> None:
    """Enter the key into the dialog that a page opens when it needs one."""
    page.get_by_role("dialog").wait_for(timeout=60_000)
    page.get_by_label("API key").fill(key)
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for(state="hidden", timeout=60_000)


def watched(page: "Page", url: str) -> tuple[list[str], "Page"]:
    """Return the page, and a list that collects its errors and its requests to other servers."""
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console", lambda message: wrong.append(message.text) if "Content Security Policy" in message.text else None
    )
    page.on(
        "request",
        lambda asked: None if asked.url.startswith((url, "blob:", "data:")) else wrong.append(asked.url),
    )
    return wrong, page


def screens(page: "Page", name: str, whole: bool = True) -> None:
    """Save screenshots of a page, or of its visible part, if a folder is set: in light and dark mode, or of a phone."""
    if not SCREENS:
        return
    if page.viewport_size and page.viewport_size["width"] < 500:
        page.screenshot(path=Path(SCREENS) / f"{name}-phone.png")
        return
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.screenshot(path=Path(SCREENS) / f"{name}-{scheme}.png", full_page=whole)
    page.emulate_media(color_scheme="light")
