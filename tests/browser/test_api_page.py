"""The page of the API in a browser: Swagger UI under the policy of every page, from this server alone."""

import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import uvicorn

from roadwork_serve.api.auth import Authenticator
from roadwork_serve.api.classify_routes import http_app
from tests.api.test_classify_routes import FakeService
from tests.browser.conftest import watched

if TYPE_CHECKING:
    from playwright.sync_api import Browser

WAIT_MS = 30_000


@pytest.fixture
def served() -> Iterator[str]:
    """Yield the URL of the routes without stages."""
    app = http_app(FakeService(), Authenticator(None))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as bound:
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def test_the_api_page_shows_and_tries_the_routes(browser: "Browser", served: str) -> None:
    wrong, page = watched(browser.new_page(base_url=served), served)
    page.goto("/docs")
    page.get_by_text("roadwork-serve").first.wait_for(timeout=WAIT_MS)
    page.locator("#operations-status-health .opblock-summary-control").click(timeout=WAIT_MS)
    page.get_by_role("button", name="Try it out").click(timeout=WAIT_MS)
    page.get_by_role("button", name="Execute").click(timeout=WAIT_MS)
    page.locator(".responses-table.live-responses-table").wait_for(timeout=WAIT_MS)
    assert "200" in page.locator(".live-responses-table td.response-col_status").last.inner_text()
    page.close()
    assert wrong == []


def test_the_console_needs_no_document_for_another_page(browser: "Browser", served: str) -> None:
    wrong, page = watched(browser.new_page(base_url=served), served)
    page.goto("/")
    page.locator("#samples button").first.wait_for(timeout=WAIT_MS)
    page.evaluate("window.same = true")
    for name in ("History", "Label", "Live", "Help", "Policy", "Classify"):
        page.get_by_role("navigation").get_by_role("link", name=name).click()
        page.locator("[aria-current=page]", has_text=name).wait_for(timeout=WAIT_MS)
        assert page.title().startswith(name)
    page.go_back()
    page.get_by_role("heading", name="Policy", exact=True).wait_for(timeout=WAIT_MS)
    assert page.evaluate("window.same")
    page.close()
    assert wrong == []
