"""The console: classify a dropped file, label entries, preview and activate a policy."""

import base64
import csv
import json
import re
from typing import TYPE_CHECKING

import httpx
import pytest

from roadwork_serve.testbed import scenes
from tests.browser.conftest import enter_key, screens, watched
from tests.e2e.conftest import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WAIT_MS = 60_000
PHOTO = scenes.photo(101)
DROP = """async ([name, type, text]) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type }));
  for (const kind of ["dragenter", "dragover", "drop"]) {
    const event = new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
    document.getElementById("drop").dispatchEvent(event);
  }
}"""


def drop(page: "Page", name: str, kind: str, data: bytes) -> None:
    page.evaluate(DROP, [name, kind, encoded(data)])


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def ask(url: str, secret: tuple[str, str], method: str, path: str, **request: object) -> httpx.Response:
    return httpx.request(method, url + path, headers={"X-API-Key": secret[0]}, timeout=60, **request)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def journaled(url: str, secret: tuple[str, str]) -> int:
    """Return the number of entries in the journal, after scenes of every kind and a clip."""
    files = [("image/jpeg", scenes.photo(seed).jpeg()) for seed in range(100, 115)]
    for kind, data in [*files, ("video/mp4", scenes.clip(7).mp4())]:
        headers = {"X-API-Key": secret[0], "Content-Type": kind}
        assert httpx.post(f"{url}/v1/classify", content=data, headers=headers, timeout=60).status_code == 200
    there = len(files) + 1
    eventually(
        lambda: len(ask(url, secret, "GET", "/v1/journal?limit=50").json()["entries"]) >= there, 30, "they are kept"
    )
    return there


def test_a_dropped_photo_shows_its_verdict_and_its_stages(page: "Page") -> None:
    drop(page, "barriers.jpg", "image/jpeg", PHOTO.jpeg())
    article = page.locator("article.verdict")
    article.wait_for(timeout=WAIT_MS)
    assert article.get_attribute("data-label") == "roadwork"
    assert "active road work here" in article.locator(".answer").inner_text()
    steps = article.locator("ol.stages > li")
    assert steps.first.get_attribute("data-stage") == "backbone"
    assert re.search(r"queue [\d.,]+, preprocess [\d.,]+, compute [\d.,]+, rpc [\d.,]+ ms", steps.first.inner_text())
    assert steps.count() == 4, "the stages that were not reached are there, too"
    assert article.evaluate("article => article.getBoundingClientRect().top") < 500, "the answer is in sight"
    exits = article.locator("li[data-exit]")
    assert exits.count() == 1 and "Exit" in exits.inner_text()
    assert article.locator(".picture img").evaluate("image => image.naturalWidth") == PHOTO.image.width
    assert "barriers.jpg" in page.get_by_role("status").inner_text()


def test_signs_are_boxed_and_clips_have_a_timeline(page: "Page") -> None:
    drop(page, "a sign at night.jpg", "image/jpeg", scenes.photo(112).jpeg())
    page.get_by_role("button", name="Clip: past barriers and drums").click()
    rows = page.locator("#rows tr")
    page.get_by_text("2 of 2 classified").wait_for(timeout=WAIT_MS)
    clip = page.locator("article.verdict", has_text="Clip: past barriers and drums")
    assert clip.locator("ol.frames button").count() > 1
    clip.locator("ol.frames button").last.click()
    page.wait_for_function("document.querySelector('video').currentTime > 0", timeout=WAIT_MS)
    rows.first.get_by_role("button").click()
    sign = page.locator("article.verdict", has_text="a sign at night.jpg")
    sign.wait_for(timeout=WAIT_MS)
    if sign.locator("[data-stage=signs] q").count():
        assert sign.locator(".box:not(.region)").count() == sign.locator("[data-stage=signs] q").count()
    page.evaluate("scrollTo(0, 0)")
    screens(page, "classify")


def test_an_unsupported_file_shows_an_error_message(page: "Page") -> None:
    drop(page, "notes.txt", "text/plain", b"this is no picture")
    alert = page.get_by_role("alert")
    alert.wait_for(timeout=WAIT_MS)
    assert "send a JPEG, PNG, WebP, HEIC, AVIF, TIFF, BMP or GIF photo" in alert.inner_text()
    drop(page, "<img src=x onerror=alert(1)>.jpg", "image/jpeg", PHOTO.jpeg()[:2000])
    page.get_by_role("heading", name="<img src=x onerror=alert(1)>.jpg").wait_for(timeout=WAIT_MS)


def test_a_photo_that_is_dropped_while_a_key_is_entered_is_classified(page: "Page", secret: tuple[str, str]) -> None:
    page.get_by_role("button", name="Key…").click()
    page.get_by_label("API key").fill(secret[0])
    submit = "document.querySelector('#key-dialog form').requestSubmit();"
    page.evaluate(DROP.replace("{", "{" + submit, 1), ["early.jpg", "image/jpeg", encoded(PHOTO.jpeg())])
    article = page.locator("article.verdict", has_text="early.jpg")
    article.wait_for(timeout=WAIT_MS)
    assert article.get_attribute("data-label") == "roadwork"


def test_many_files_get_a_table_that_can_be_saved(page: "Page") -> None:
    names = [f"{number}.jpg" for number in range(30)] + ["=1+1.txt"]
    for name in names:
        drop(page, name, "image/jpeg", b"nothing" if name.endswith("txt") else scenes.photo(100).jpeg())
    page.get_by_text("30 of 31 classified").wait_for(timeout=WAIT_MS)
    page.get_by_text("1 not classified").wait_for(timeout=WAIT_MS)
    assert page.locator("#rows tr").count() == 31 and page.locator("article").count() == 1
    page.locator("#rows tr", has_text="7.jpg").first.get_by_role("button").click()
    page.locator("article.verdict", has_text="7.jpg").wait_for(timeout=WAIT_MS)
    screens(page, "many")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").click()
    lines = list(csv.DictReader(download.value.path().read_text().splitlines()))
    assert [line["file"] for line in lines] == [*names[:-1], "'=1+1.txt"]
    assert {line["label"] for line in lines[:-1]} <= {"roadwork", "none"} and "send a" in lines[-1]["problem"]


def test_the_page_asks_for_a_key_and_uses_it(browser: "Browser", url: str, secret: tuple[str, str]) -> None:
    context = browser.new_context(base_url=url)
    wrong, page = watched(context.new_page(), url)
    page.goto("/")
    dialog = page.get_by_role("dialog")
    dialog.wait_for(timeout=WAIT_MS)
    assert "An API key is required" in dialog.inner_text()
    enter_key(page, secret[0])
    page.get_by_text("Profile mini").wait_for(timeout=WAIT_MS)
    page.get_by_role("link", name="Live").click()
    page.locator("#stages tr[data-stage=backbone]").wait_for(timeout=WAIT_MS)
    page.go_back()
    page.get_by_text("Profile mini").wait_for(timeout=WAIT_MS)
    stored = page.evaluate("JSON.stringify([{...sessionStorage}, {...localStorage}, document.cookie])")
    assert secret[0] not in page.content() + stored + json.dumps(context.storage_state())
    page.reload()
    dialog.wait_for(timeout=WAIT_MS)
    context.close()
    assert wrong == []


def test_an_answer_is_found_in_the_history_and_labelled(
    page: "Page", url: str, secret: tuple[str, str], journaled: int
) -> None:
    page.get_by_role("link", name="Live").click()
    items = page.locator("#stages tr[data-stage=backbone] td").nth(8)  # as of a second ago at most
    items.wait_for(timeout=WAIT_MS)
    eventually(lambda: int(items.inner_text()) >= journaled, WAIT_MS / 1000, "the page counts every answer")
    page.get_by_role("link", name="History").click()
    page.locator("#rows tr").nth(journaled - 1).wait_for(timeout=WAIT_MS)
    page.locator("#rows .thumbnail img").first.wait_for(timeout=WAIT_MS)
    page.get_by_role("link", name="Label", exact=True).click()
    page.locator("#one article.verdict").wait_for(timeout=WAIT_MS)
    assert page.locator("#one .picture img, #one .picture video").count() == 1
    entry_id = json.loads(page.locator("#one pre").text_content() or "")["answer_id"]
    page.keyboard.press("n")
    page.get_by_text("Labelled: none.").wait_for(timeout=WAIT_MS)
    page.locator("#one article.verdict").wait_for(timeout=WAIT_MS)
    assert json.loads(page.locator("#one pre").text_content() or "")["answer_id"] != entry_id
    entries = ask(url, secret, "GET", "/v1/journal?limit=50").json()["entries"]
    labels = {each["id"]: each["human_label"] for each in entries}
    assert labels[entry_id] == "none"
    assert sum(word is not None for word in labels.values()) == 1
    page.keyboard.press("z")
    page.get_by_text("is withdrawn").wait_for(timeout=WAIT_MS)
    entries = ask(url, secret, "GET", "/v1/journal?limit=50").json()["entries"]
    assert all(each["human_label"] is None for each in entries)


def test_a_policy_is_previewed_activated_and_rolled_back(
    page: "Page", url: str, secret: tuple[str, str], journaled: int
) -> None:
    before = ask(url, secret, "GET", "/v1/policy").json()
    page.get_by_role("link", name="Policy").click()
    low = page.get_by_label("photo, Backbone: low end of the band", exact=True)
    high = page.get_by_label("photo, Backbone: high end of the band", exact=True)
    low.wait_for(timeout=WAIT_MS)
    assert page.get_by_role("button", name="Activate").is_disabled()
    for slider, middle in ((low, "0.495"), (high, "0.505")):
        slider.evaluate("(s, value) => { s.value = value; s.dispatchEvent(new Event('input')); }", middle)
    effect = page.locator("#effect tr[data-stage=backbone] td")
    effect.first.wait_for(timeout=WAIT_MS)
    now, then = (int(effect.nth(at).inner_text()) for at in (0, 1))
    assert then > now, "a narrower band lets more leave at stage 1"
    page.get_by_role("button", name="Activate").click()
    page.get_by_text("is active: revision").wait_for(timeout=WAIT_MS)
    after = ask(url, secret, "GET", "/v1/policy").json()
    assert after["revision"] == before["revision"] + 1
    assert after["rollout"]["policy"]["photo"][0]["exit"] == [0.495, 0.505]
    page.get_by_role("button", name="Roll back").click()
    page.get_by_text(f"revision {after['revision'] + 1}").first.wait_for(timeout=WAIT_MS)
    assert ask(url, secret, "GET", "/v1/policy").json()["rollout"]["policy"] == before["rollout"]["policy"]


@pytest.mark.parametrize("path", ["/", "/console/live.html", "/console/policy.html", "/console/label.html"])
def test_it_fits_a_phone_and_works_from_the_keyboard(
    browser: "Browser", url: str, secret: tuple[str, str], path: str
) -> None:
    context = browser.new_context(base_url=url, viewport={"width": 375, "height": 740}, color_scheme="dark")
    wrong, page = watched(context.new_page(), url)
    page.goto(path)
    enter_key(page, secret[0])
    page.get_by_role("navigation").wait_for(timeout=WAIT_MS)
    page.wait_for_timeout(1500)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing hangs over the edge"
    page.evaluate("document.body.tabIndex = -1; document.body.focus()")  # closing the dialog left it in the middle
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator("main h1").count() == 1
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input, select, a')].filter(e => e.checkVisibility() &&"
        " !(e.innerText || e.ariaLabel || e.labels?.length || e.alt)).map(e => e.outerHTML)"
    )
    assert unnamed == []
    context.close()
    assert wrong == []
