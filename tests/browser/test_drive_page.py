"""The page of a drive, opened from disk."""

from pathlib import Path
from typing import TYPE_CHECKING

from roadwork_serve.drives.map_page import map_page
from tests.drives.test_map_page import found

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PIXEL = (Path(__file__).parents[2] / "roadwork_serve/console/samples").glob("*.jpg")


def test_it_opens_from_disk_without_a_request(browser: "Browser", tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(map_page(found(), {(0, 0): next(PIXEL).read_bytes()}), encoding="utf-8")
    context = browser.new_context()
    page = context.new_page()
    requests: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: requests.append(request.url.split(",")[0]))
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((tmp_path / "index.html").as_uri())
    assert page.get_by_role("heading", level=1).inner_text() == "2 work zones on 1 drive, 0 ended"
    assert page.locator("img").evaluate("picture => picture.complete && picture.naturalWidth > 0")
    page.get_by_role("img", name="Map of the drives").locator("a").first.click()
    assert page.url.endswith("#zone-1")
    context.close()
    assert wrong == [] and {each.split(":")[0] for each in requests} <= {"file", "data"}
    assert sum(each.startswith("file:") for each in requests) == 1
