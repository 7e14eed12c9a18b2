import pytest

from roadwork_serve.journal.filter import Filter
from roadwork_serve.journal.paging import Position
from roadwork_serve.journal.search import search
from roadwork_serve.journal.store import Store
from tests.journal.made import entry


def pages(store: Store, where: Filter, limit: int) -> list[str]:
    """Return the ids of every page, one text a page."""
    found, after = list[str](), None
    while True:
        page = search(store, where, limit, after)
        found.append("".join(row.prediction.id for row in page.rows))
        if page.next is None:
            return found
        after = Position.from_cursor(page.next.cursor)


@pytest.fixture
def filled(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Return a journal of entries a to j, two at a time; a page looks at two, and those of the time of the last."""
    monkeypatch.setattr("roadwork_serve.journal.search.SEARCHED", 2)
    store.commit([entry(name, 0.1 if name in "bj" else 0.9, 0.1 + n // 2) for n, name in enumerate("abcdefghij")])
    return store


def test_pages_hold_every_entry_once(filled: Store) -> None:
    assert pages(filled, Filter(), 3) == ["jih", "gfe", "dcb", "a"]


def test_a_page_without_a_match_continues_the_search(filled: Store) -> None:
    assert pages(filled, Filter(label="none"), 3) == ["j", "", "b"]
    assert pages(filled, Filter(label="none", since_s=1.0), 3) == ["j", "", ""]
    assert pages(filled, Filter(label="none", until_s=2.0), 1)[-1] == "b"


def test_an_empty_journal_has_one_page(store: Store) -> None:
    assert pages(store, Filter(label="none"), 3) == [""]
