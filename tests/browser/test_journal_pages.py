"""History, labels, charts and policy preview over a journal of made-up answers, on a desktop and on a phone."""

import re
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.browser.conftest import Tab, enter_key, screens
from tests.browser.journal_server import ENTRIES, records

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ON_A_PAGE = 24
NAME = re.compile(r"frame \d+")


def names(page: "Page") -> list[str]:
    """Return the file names on the page of the history, once it is loaded."""
    page.wait_for_function("() => document.getElementById('message').textContent !== 'Loading…'")
    return [NAME.search(each).group() for each in page.locator("#rows .name button").all_inner_texts()]  # type: ignore[union-attr]


def frames(numbers: range) -> list[str]:
    return [f"frame {number:03d}" for number in numbers]


def labels(url: str, secret: tuple[str, str]) -> dict[str, str]:
    """Return the human labels by the id of the entry."""
    entries = httpx.get(f"{url}/v1/journal?limit=100", headers={"X-API-Key": secret[0]}).json()["entries"]
    return {each["id"]: each["human_label"] for each in entries if each["human_label"]}


def test_the_history_has_pages_with_pictures(tab: Tab) -> None:
    page = tab("/console/history.html")
    page.locator("#rows tr").nth(ON_A_PAGE - 1).wait_for()
    assert names(page) == frames(range(ENTRIES - 1, ENTRIES - 1 - ON_A_PAGE, -1))
    picture = page.locator("#rows .thumbnail img").first
    picture.wait_for()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 256
    assert page.get_by_text("not stored").count() == len([n for n in range(36, 60) if n % 12 == 7])
    screens(page, "history", whole=False)
    page.get_by_role("button", name="Older").click()
    page.locator("#rows", has_text="frame 035").wait_for()
    assert names(page) == frames(range(35, 11, -1))
    page.get_by_role("button", name="Older").click()
    page.locator("#rows", has_text="frame 000").wait_for()
    assert names(page) == frames(range(11, -1, -1))
    assert page.get_by_role("button", name="Older").is_hidden()
    page.get_by_role("button", name="Newer").click()
    page.locator("#rows", has_text="frame 035").wait_for()
    page.get_by_role("button", name="Newest").click()
    page.locator("#rows", has_text="frame 059").wait_for()


def test_filters_are_kept_in_the_address(tab: Tab) -> None:
    page = tab("/console/history.html")
    page.locator("#rows tr").first.wait_for()
    if page.locator("#filters").is_hidden():
        page.get_by_text("Filters").click()  # folded on a phone
    page.locator("[name=filename]").fill("camera-1")
    page.locator("[name=label]").select_option("none")
    page.locator("[name=exit_stage]").select_option("backbone")
    page.locator("[name=since]").fill("2026-11-21")
    page.locator("[name=until]").fill("2026-11-21")
    page.wait_for_url("**/history.html?*until=2026-11-21*")
    # Entry 59 is of midnight on 23 November, and each is an hour older than the one before.
    made = {number: record.verdict for number, record in enumerate(records()) if number % 3 == 1 and 11 <= number < 35}
    found = [n for n, each in made.items() if each.label == "none" and each.exit.stage == "backbone"][::-1]
    page.wait_for_function("n => document.querySelectorAll('#rows tr').length === n", arg=len(found))
    assert found and names(page) == [f"frame {number:03d}" for number in found]
    again = tab(page.url)
    again.locator("#rows tr").first.wait_for()
    assert names(again) == names(page)
    assert again.locator("[name=filename]").input_value() == "camera-1"
    again.get_by_role("button", name="Clear").click()  # it is unfolded, since filters are set
    again.locator("#rows tr").nth(ON_A_PAGE - 1).wait_for()
    assert "?" not in again.url
    again.locator("[name=disagreement]").select_option("true")
    again.wait_for_url("**/history.html?disagreement=true")
    again.wait_for_function(
        "() => [...document.querySelectorAll('#rows tr')].every((row) => row.innerText.includes('stages disagree'))"
    )
    assert names(again)


def test_a_row_opens_the_whole_answer(tab: Tab) -> None:
    page = tab("/console/history.html?exit_stage=signs&media=photo")
    page.locator("#rows tr").first.locator("td").nth(2).click()
    sheet = page.get_by_role("dialog", name="The whole answer")
    picture = sheet.locator(".picture img")
    picture.wait_for()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 256, "the file itself"
    assert sheet.locator(".box.region").inner_text() == "cone or barrier 93 %"
    assert sheet.locator(".box:not(.region)").inner_text() == "ROAD WORK AHEAD"
    assert sheet.locator(".heat").count() == 6
    assert "leaning towards" in sheet.locator(".answer").inner_text(), "no stage was certain enough"
    assert sheet.locator("li.unreached").count() == 2
    screens(page, "answer", whole=False)
    sheet.get_by_label("Show evidence").uncheck()
    assert sheet.locator(".heat").first.is_hidden()
    first = sheet.locator("h3").inner_text()
    sheet.get_by_role("button", name="Next").click()
    page.wait_for_function("first => document.querySelector('#whole h3')?.innerText !== first", arg=first)
    page.keyboard.press("Escape")
    sheet.wait_for(state="hidden")


def test_boxes_of_a_clip_belong_to_their_frames(tab: Tab) -> None:
    page = tab("/console/history.html?exit_stage=signs&media=clip")
    page.locator("#rows tr", has_not_text="not stored").first.get_by_role("button").click()
    sheet = page.get_by_role("dialog", name="The whole answer")
    sheet.locator("ol.frames button").nth(5).click()
    page.wait_for_function("() => document.querySelector('#whole video').currentTime > 0")
    box = sheet.locator(".box")
    box.wait_for(state="hidden")
    sheet.locator("ol.frames button").nth(2).click()
    box.wait_for(state="visible")
    assert sheet.locator("ol.frames li[data-now]").count() == 1


def test_one_entry_at_a_time_is_labelled_and_undone(tab: Tab, journal_url: str, secret: tuple[str, str]) -> None:
    page = tab("/console/label.html")
    card = page.locator("#one article.verdict")
    card.wait_for()
    before, title = labels(journal_url, secret), card.locator("h3").inner_text()
    page.keyboard.press("r")
    page.get_by_text("Labelled: road work.").wait_for()
    page.wait_for_function("title => document.querySelector('#one h3')?.innerText !== title", arg=title)
    assert re.search(r"1 labelled here\. The model agrees with [01] of 1", page.locator("#tally").inner_text())
    added = labels(journal_url, secret).items() - before.items()
    assert [label for _, label in added] == ["roadwork"]
    top = card.evaluate("card => card.getBoundingClientRect().top")
    assert 0 < top < 400, "the picture is in sight"
    screens(page, "label", whole=False)
    page.keyboard.press("z")
    page.get_by_text("is withdrawn").wait_for()
    page.wait_for_function("title => document.querySelector('#one h3')?.innerText === title", arg=title)
    assert labels(journal_url, secret) == before
    page.keyboard.press("s")
    page.wait_for_function("title => document.querySelector('#one h3')?.innerText !== title", arg=title)
    page.get_by_label("Hide the model's answer").check()
    page.wait_for_function("() => document.querySelector('#one .blind') && !document.querySelector('#one .answer')")
    assert labels(journal_url, secret) == before, "skipping labels nothing"


def test_a_grid_is_labelled_with_the_keyboard(tab: Tab, journal_url: str, secret: tuple[str, str]) -> None:
    page = tab("/console/label.html?mode=grid&queue=newest")
    tiles = page.locator("#grid .tile")
    tiles.nth(ON_A_PAGE - 1).wait_for()
    tiles.first.locator(".thumbnail img").wait_for()
    before = labels(journal_url, secret)
    page.keyboard.press("ArrowRight")
    page.locator("#grid li:nth-child(2) .tile[aria-pressed=true]").wait_for()
    for key, label in (("n", "none"), ("u", "unclear"), ("r", "road work")):
        page.keyboard.press(key)
        page.get_by_text(f"Labelled: {label}.").wait_for()
    chosen = page.locator("#grid .tile[aria-pressed=true]")
    page.locator("#grid li:nth-child(5) .tile[aria-pressed=true]").wait_for()
    assert [tiles.nth(at).get_attribute("data-human") for at in (0, 2, 4)] == ["", "unclear", ""]
    assert tiles.nth(1).get_attribute("data-human") in ("agrees", "differs")
    assert re.search(r"3 labelled here\. The model agrees with [012] of 2", page.locator("#tally").inner_text())
    screens(page, "grid", whole=False)
    for left in (2, 1, 0):
        page.get_by_role("button", name="Undo").click()
        page.get_by_text(f"{left} labelled here").wait_for()
    assert chosen.count() == 1 and labels(journal_url, secret) == before
    page.get_by_role("button", name="Load more").click()
    tiles.nth(ON_A_PAGE).wait_for()


def test_the_live_page_draws_charts(tab: Tab) -> None:
    page = tab("/console/live.html")
    charts = page.locator("#charts .chart")
    page.wait_for_function("() => document.querySelector('#charts path')?.getAttribute('d').includes('L')")
    titles = page.locator("#charts figcaption").all_inner_texts()
    assert [title.split(",")[0].split(":")[0] for title in titles] == [
        "Verdicts and refusals a second", "Exits a second", "Latency", "Refusals a second", "Drift",
    ]  # fmt: skip
    assert "Sign reader" in charts.nth(1).inner_text()
    assert re.search(r"whole verdict \d+", charts.nth(2).inner_text())
    assert "unsupported media" in charts.nth(3).inner_text()
    assert "mean probability 40 %" in charts.nth(4).inner_text()
    screens(page, "live")


def test_a_policy_preview_shows_what_would_change(tab: Tab) -> None:
    page = tab("/console/policy.html")
    for end, value in (("low", "0.495"), ("high", "0.505")):
        slider = page.get_by_label(f"photo, Backbone: {end} end of the band", exact=True)
        slider.evaluate("(s, value) => { s.value = value; s.dispatchEvent(new Event('input')); }", value)
    tile = page.locator("#flips .tile").first
    tile.wait_for()
    assert re.search(r"\d+ labels would change", page.locator("#effect").inner_text())
    assert re.search(r"would be (road work|none)", tile.inner_text())
    page.locator("#flips .tile").last.scroll_into_view_if_needed()
    page.locator("#flips .tile").last.locator(".thumbnail img").wait_for()
    screens(page, "policy")
    page.get_by_role("button", name="Activate").click()
    page.get_by_text("is active: revision").wait_for()
    page.get_by_role("button", name="Roll back").click()
    page.get_by_text("mini-1 is active: revision").wait_for()


@pytest.mark.parametrize(
    ("label", "probability", "reason", "words"),
    [
        ("roadwork", 0.97, "above_band", "There is active road work here."),
        ("roadwork", 0.8, "above_band", "There is probably active road work here."),
        ("roadwork", 0.66, "above_band", "There may be active road work here."),
        ("roadwork", 0.51, "above_band", "Undecided, leaning towards active road work."),
        ("roadwork", 0.9, "last_stage", "Undecided, leaning towards active road work."),
        ("roadwork", 0.97, "deadline", "Undecided, leaning towards active road work."),
        ("roadwork", 0.4, "above_band", "Undecided, leaning towards active road work."),
        ("none", 0.49, "below_band", "Undecided, leaning towards no active road work."),
        ("none", 0.3, "failed", "Undecided, leaning towards no active road work."),
        ("none", 0.3, "below_band", "There may be no active road work here."),
        ("none", 0.02, "below_band", "There is no active road work here."),
    ],
)
def test_the_wording_claims_no_more_than_the_number(
    plain: "Page", label: str, probability: float, reason: str, words: str
) -> None:
    verdict = {
        "label": label,
        "positive": label == "roadwork",
        "probability": probability,
        "exit": {"stage": "backbone", "reason": reason},
    }
    assert plain.evaluate("async (v) => (await import('/console/words.js')).inWords(v)", verdict) == words
    said = plain.evaluate("async (v) => (await import('/console/words.js')).percent(v, 1)", 0.99999)
    assert said == "over 99.9 %"


@pytest.fixture(scope="module")
def plain(browser: "Browser", journal_url: str) -> "Page":
    page = browser.new_page(base_url=journal_url)
    page.goto("/console/help.html")
    return page


def test_no_page_sends_a_request_to_another_host(browser: "Browser", journal_url: str, secret: tuple[str, str]) -> None:
    page = browser.new_page(base_url=journal_url)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/console/label.html")
    enter_key(page, secret[0])
    page.locator("#one article").wait_for()
    assert page.locator("#keys button").count() == 5, "with the key, the page starts again"
    navigation = page.get_by_role("navigation", name="Pages", exact=True)
    for name in ("History", "Label", "Live", "Policy", "Help", "Classify"):
        navigation.get_by_role("link", name=name).click()
        page.locator("[aria-current=page]", has_text=name).wait_for()
        page.wait_for_load_state("networkidle")
    foreign = [each for each in asked if not each.startswith((journal_url, "blob:", "data:"))]
    assert asked and foreign == []
    page.close()


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("history.html", "#rows tr"),
        ("label.html", "#one article.verdict"),
        ("policy.html", "#steps input"),
        ("help.html", "dl"),
    ],
)
def test_pages_in_the_other_colors(other_tab: Tab, path: str, shown: str) -> None:
    page = other_tab(f"/console/{path}")
    page.locator(shown).first.wait_for()
    paper, ink = (
        page.evaluate(f"getComputedStyle(document.body).{name}.match(/\\d+/g).map(Number).reduce((a, b) => a + b)")
        for name in ("backgroundColor", "color")
    )
    assert abs(paper - ink) > 300, "the text is legible"
