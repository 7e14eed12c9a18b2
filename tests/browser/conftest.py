"""A server with keys and a headless Chromium; `make test-browser` installs what these tests need."""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks.server import started
from roadwork_serve.api.api_keys import new_key

if TYPE_CHECKING:
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


def screens(page: "Page", name: str) -> None:
    """Save screenshots of a page in light and dark mode if a folder is set."""
    if SCREENS:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.screenshot(path=Path(SCREENS) / f"{name}-{scheme}.png", full_page=True)
        page.emulate_media(color_scheme="light")
