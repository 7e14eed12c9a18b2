"""The journal reader, directly and through the client of the ingress."""

import asyncio
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deployments.journal_client import JournalClient
from roadwork_serve.api.journal_reader import JournalReader
from roadwork_serve.cascade.policy_file import load_rollout
from roadwork_serve.errors import BadRequest, JournalDown, NotFound, RoadworkError
from roadwork_serve.journal.filter import Filter
from roadwork_serve.journal.store import Store
from roadwork_serve.schema import HumanLabel
from tests.deployments.fakes import FakeMethod
from tests.journal.made import entry

PHOTO = b"\xff\xd8\xff a photo"
RULES = load_rollout({}, "mini")
ALL = Filter()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(f"sqlite:///{tmp_path / 'j.db'}", media_folder=tmp_path / "media")


@pytest.fixture
async def archive(tmp_path: Path, store: Store) -> AsyncGenerator[JournalReader]:
    store.commit(
        [
            entry("sure", 0.99, created_at_s=1.0, media=PHOTO),
            entry("close", 0.52, created_at_s=2.0),
            entry("none", 0.02, created_at_s=3.0),
        ]
    )
    archive = JournalReader(lambda: Store.open(f"sqlite:///{tmp_path / 'j.db'}", media_folder=tmp_path / "media"))
    yield archive
    archive.close()
    store.close()


class Journal:
    """The journal's deployment without Serve."""

    def __init__(self, archive: JournalReader | None) -> None:
        self.archive = archive
        self.error: Exception | None = None
        for name in ("recent", "informative", "media", "label", "withdraw_label", "preview"):
            setattr(self, name, FakeMethod(partial(self._ask, name)))

    async def _ask(self, question: str, *args: Any) -> object:
        if self.error:
            raise self.error
        try:
            return await getattr(self.archive, question)(*args)
        except RoadworkError as error:
            return error


def journal_client(journal: Journal | None) -> JournalClient:
    return JournalClient(journal)  # type: ignore[arg-type]


async def test_the_newest_come_first(archive: JournalReader):
    page = await journal_client(Journal(archive)).recent(2, ALL, None)
    assert [answer.id for answer in page.entries] == ["none", "close"]
    assert page.entries[0].created_at == "1970-01-01T00:00:03.000+00:00"
    assert page.entries[0].verdict.probability == 0.02


async def test_informative_entries_are_unlabelled_ones(archive: JournalReader):
    asked = journal_client(Journal(archive))
    first = (await asked.informative(3, ALL, 0.5)).entries[0]
    assert (first.id, set(first.reasons)) == ("close", {"margin"})
    assert first.informativeness is not None and first.informativeness > 0.4
    labeled = await asked.label("close", HumanLabel(label="unclear"), "ann")
    assert labeled.human_label == "unclear"
    assert "close" not in {answer.id for answer in (await asked.informative(3, ALL, 0.5)).entries}
    assert {answer.id: answer.human_label for answer in (await asked.recent(3, ALL, None)).entries}[
        "close"
    ] == "unclear"


async def test_pages_follow_one_another_by_their_cursors(archive: JournalReader):
    asked = journal_client(Journal(archive))
    cursor, found = None, list[str]()
    for _ in range(3):
        page = await asked.recent(1, Filter(), cursor)
        found += [entry.id for entry in page.entries]
        cursor = page.next_cursor
    assert (found, cursor) == (["none", "close", "sure"], None)
    assert [each.id for each in (await asked.recent(9, Filter(label="none"), None)).entries] == ["none"]
    with pytest.raises(BadRequest, match="next_cursor of a page"):
        await asked.recent(1, ALL, "1e999_a")


async def test_a_label_that_the_task_does_not_have_is_refused(archive: JournalReader):
    asked = journal_client(Journal(archive))
    for call in (asked.recent(1, Filter(label="maybe"), None), asked.informative(1, Filter(label="maybe"), 0.5)):
        with pytest.raises(BadRequest, match=r"label is 'maybe': Input should be 'roadwork' or 'none'$"):
            await call
    with pytest.raises(BadRequest, match="Input should be 'roadwork', 'none' or 'unclear'"):
        await asked.label("none", HumanLabel(label="maybe"), "ann")


async def test_a_label_is_withdrawn_by_its_author_alone(archive: JournalReader):
    asked = journal_client(Journal(archive))
    for label in ("roadwork", "none"):
        await asked.label("sure", HumanLabel(label=label), "ann")  # type: ignore[arg-type]
    with pytest.raises(NotFound, match="not yours"):
        await asked.withdraw_label("sure", "bob")
    assert (await asked.withdraw_label("sure", "ann")).human_label == "roadwork"
    assert (await asked.withdraw_label("sure", "ann")).human_label is None
    with pytest.raises(NotFound, match="or it has none"):
        await asked.withdraw_label("sure", "ann")


async def test_the_last_label_counts(archive: JournalReader, store: Store):
    asked = journal_client(Journal(archive))
    for label in ("roadwork", "none"):
        await asked.label("sure", HumanLabel(label=label, note="seen twice"), "ann")  # type: ignore[arg-type]
    mark = store.get("sure").annotation
    assert mark is not None
    assert (mark.label, mark.author, mark.note) == ("none", "ann", "seen twice")


async def test_stored_files_are_returned(archive: JournalReader):
    asked = journal_client(Journal(archive))
    assert await asked.media("sure") == PHOTO
    assert [answer.media_available for answer in (await asked.recent(3, ALL, None)).entries] == [False, False, True]
    with pytest.raises(NotFound, match=r"the file of close is not stored; set journal\.max_media_gib"):
        await asked.media("close")
    with pytest.raises(NotFound, match="no prediction nobody"):
        await asked.media("nobody")
    with pytest.raises(NotFound, match="no prediction nobody"):
        await asked.label("nobody", HumanLabel(label="none"), "ann")


async def test_a_policy_is_previewed_on_the_newest_entries(archive: JournalReader):
    preview = await journal_client(Journal(archive)).preview(RULES.policy, RULES.policy, 2)
    assert (preview.entries, preview.version) == (2, RULES.policy.version)


async def test_an_unreadable_database_is_reported_as_journal_down(tmp_path: Path):
    (tmp_path / "j.db").write_bytes(b"this is no database, whatever it is called" * 50)
    archive = JournalReader(lambda: Store.open(f"sqlite:///{tmp_path / 'j.db'}"))
    with pytest.raises(JournalDown):
        await journal_client(Journal(archive)).recent(1, ALL, None)
    archive.close()


async def test_a_dead_deployment_is_reported_as_journal_down():
    journal = Journal(None)
    journal.error = RuntimeError("The actor died.")
    with pytest.raises(JournalDown, match="does not answer at the moment"):
        await journal_client(journal).recent(1, ALL, None)


async def test_a_deployment_that_hangs_is_reported_as_journal_down(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("deployments.journal_client._TIMEOUT_S", 0.05)
    journal = Journal(None)

    async def hang(*_: object) -> object:
        return await asyncio.sleep(60)

    journal.recent = FakeMethod(hang)  # type: ignore[attr-defined]
    with pytest.raises(JournalDown):
        await journal_client(journal).recent(1, ALL, None)


async def test_a_server_without_a_journal_answers_not_found():
    with pytest.raises(NotFound, match=r"has no journal; set journal\.enabled"):
        await journal_client(None).recent(1, ALL, None)


async def test_a_label_for_several_predictions_is_no_unknown_one(archive: JournalReader, store: Store) -> None:
    twice = {"request_id": "retry-42"}
    store.commit([entry("a", filename="one.jpg", verdict=twice), entry("b", verdict=twice)])
    with pytest.raises(BadRequest, match="2 predictions have the request id retry-42"):
        await archive.label("retry-42", HumanLabel(label="none"), "ann")
    names = {each.id: each.filename for each in (await archive.recent(10, ALL, None)).entries}
    assert (names["a"], names["b"]) == ("one.jpg", "")
