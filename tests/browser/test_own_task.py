"""The console of a server with another task than road work, and a stage of another package."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
import pytest

from roadwork_serve.api.console_routes import FOLDER
from tests.browser.conftest import Tab, tabs

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(params=["desktop", "phone"])
def pothole_tab(
    request: pytest.FixtureRequest, browser: "Browser", pothole_url: str, secret: tuple[str, str]
) -> Iterator[Tab]:
    with tabs(browser, pothole_url, secret[0], request.param, dark=request.param == "phone") as open_page:
        yield open_page


def test_an_answer_speaks_of_the_task(pothole_tab: Tab) -> None:
    page = pothole_tab("/console/")
    page.get_by_role("heading", name="Is there a pothole").wait_for()
    page.set_input_files("input[type=file]", FOLDER / "samples/columbus.jpg")
    page.locator("main", has_text="darkness").wait_for()
    shown = page.locator("main").inner_text().lower()
    assert "pothole" in shown and "road work" not in shown


def test_history_and_labels_have_its_words(pothole_tab: Tab, pothole_url: str, secret: tuple[str, str]) -> None:
    page = pothole_tab("/console/history.html?label=pothole")
    page.locator("#rows tr").nth(2).wait_for()
    assert page.locator("#rows tr").count() == 3
    assert page.locator("[name=label] option").all_inner_texts()[1:] == ["pothole", "none"]
    assert "darkness" in page.locator("#rows").inner_text()
    assert page.locator("[name=exit_stage] option[value=darkness]").count() == 1
    page = pothole_tab("/console/label.html")
    page.locator("#one article.verdict").wait_for()
    page.locator("[data-label=pothole]").first.click()
    page.get_by_text("Labelled: pothole").first.wait_for()
    entries = httpx.get(f"{pothole_url}/v1/journal", headers={"X-API-Key": secret[0]}).json()["entries"]
    assert "pothole" in [each["human_label"] for each in entries]
