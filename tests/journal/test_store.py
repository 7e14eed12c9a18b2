import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import create_engine, inspect, text

from roadwork_serve.errors import BadRequest, ConfigError, JournalDown
from roadwork_serve.journal import media_files
from roadwork_serve.journal.filter import Filter
from roadwork_serve.journal.record import Annotation, DeferredResult, JournalRow
from roadwork_serve.journal.store import RejectedRecords, SeveralPredictions, Store
from roadwork_serve.journal.tables import metadata
from roadwork_serve.schema import Exit
from tests.journal.made import audit, entry, report, verdict


def ids(cases: object) -> list[str]:
    return [case.prediction.id for case in cases]  # type: ignore[attr-defined]


def test_a_committed_record_is_found_unchanged(store: Store) -> None:
    features = np.array([[0.5, -2.0], [3.0, 1e-3]], np.float16)
    given = entry("a", 0.7, features=features, audit_rate=0.1, key="camera", verdict={"audit_rate": 0.1, "arm": "a"})
    store.commit([given, audit("a", report("vlm", 0.2)), DeferredResult("a", 2.0, "shadow", verdict=verdict("a", 0.3))])
    (case,) = store.find()
    assert case.prediction.verdict == given.verdict
    assert np.array_equal(case.prediction.features, features)
    assert (case.prediction.audit_rate, case.prediction.key, case.prediction.created_at_s, case.prediction.sha256) == (
        0.1,
        "camera",
        1000.0,
        given.sha256,
    )
    assert [each.stage for each in case.audit or ()] == ["vlm"]
    assert [each.probability for each in case.shadows] == [0.3]
    assert (case.annotation, case.media_available) == (None, False)
    assert case.report("vlm") and case.report("backbone") and case.report("signs") is None


def test_a_record_sent_repeatedly_is_stored_once(store: Store) -> None:
    records = [entry("a"), audit("a", report("vlm")), entry("b", 0.1)]
    store.commit(records)
    store.commit(records[::-1])
    store.commit([*records, *records])
    assert ids(store.find()) == ["a", "b"]
    assert len(store.get("a").audit or ()) == 1


def test_two_predictions_of_one_request_are_both_stored(store: Store) -> None:
    store.commit(
        [entry("a", verdict={"request_id": "r"}), entry("b", created_at_s=2000.0, verdict={"request_id": "r"})]
    )
    assert ids(store.find(Filter(request_id="r"))) == ["a", "b"]
    assert store.get("r").prediction.id == "b"


def test_a_deferred_result_may_arrive_before_its_prediction(store: Store) -> None:
    store.commit([audit("late", report("vlm"))])
    assert list(store.find()) == []
    store.commit([entry("late")])
    assert [each.stage for each in store.get("late").audit or ()] == ["vlm"]


def test_several_senders_at_once_write_each_record_once(opened: Callable[..., Store]) -> None:
    stores = [opened() for _ in range(4)]
    batches = [[entry(f"{number}") for number in range(start, start + 40)] for start in (0, 20, 40, 0)]
    errors: list[Exception] = []

    def send(store: Store, batch: list) -> None:
        try:
            for record in batch:
                store.commit([record])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=send, args=pair) for pair in zip(stores, batches, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(ids(stores[0].find()), key=int) == [str(number) for number in range(80)]


def test_paging_skips_nothing_when_times_are_equal(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadwork_serve.journal.store._PAGE", 7)
    store.commit([entry(f"{number:03d}", created_at_s=float(number // 10)) for number in range(50)])
    expected = [f"{number:03d}" for number in range(50)]
    assert ids(store.find()) == expected
    assert ids(store.find(newest_first=True)) == expected[::-1]
    assert ids(store.find(limit=15)) == expected[:15]
    assert ids(store.find(Filter(since_s=2.0, until_s=4.0))) == expected[20:40]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Filter(label="none"), ["b"]),
        (Filter(exit_stage="vlm"), ["b"]),
        (Filter(exit_reason="deadline"), ["b"]),
        (Filter(degraded=True), ["c"]),
        (Filter(policy_version="other"), ["c"]),
        (Filter(arm="b"), ["c"]),
        (Filter(media="clip"), ["c"]),
        (Filter(caller="bob"), ["b"]),
        (Filter(key="camera"), ["b"]),
        (Filter(min_probability=0.85), ["a"]),
        (Filter(max_probability=0.2), ["b"]),
        (Filter(labeled=True), ["a"]),
        (Filter(labeled=False), ["b", "c"]),
        (Filter(audited=True), ["b"]),
        (Filter(audited=False), ["a", "c"]),
        (Filter(min_probability=0.5, degraded=False), ["a"]),
        (Filter(disagreement=True), ["b", "c"]),
        (Filter(disagreement=False), ["a"]),
        (Filter(filename_part="CAM_7"), ["b"]),
        (Filter(filename_part="."), ["a", "b"]),
    ],
)
def test_filters_select_matching_entries(store: Store, wanted: Filter, found: list[str]) -> None:
    stages = (report("backbone", 0.51), report("vlm", 0.2), report("signs", None))
    left = {"exit": Exit(stage="vlm", reason="deadline"), "stages": stages}
    odd = {"degraded": True, "policy_version": "other", "arm": "b", "media": "clip", "stages": (report("vlm", 0.49),)}
    store.commit([entry("a", 0.9, filename="camX7.jpg"), audit("b")])
    store.commit([entry("b", 0.1, verdict=left, caller="bob", key="camera", filename="Cam_7.jpg")])
    store.commit([entry("c", 0.8, verdict=odd)])
    store.annotate([("a", Annotation("none", "ann", 1.0))])
    assert ids(store.find(wanted)) == found
    assert store.count(wanted) == len(found)


def test_a_name_is_recorded_in_bounds_and_found_again(store: Store) -> None:
    long = "\u5de5\u4e8b" * 200 + "\0.jpg"
    store.commit([entry("a", filename="\u5730\u70b9 7.jpg"), entry("b", filename=long), entry("c")])
    names = {row.prediction.id: row.prediction.filename for row in store.find()}
    assert names == {"a": "\u5730\u70b9 7.jpg", "b": long[:255], "c": ""}
    assert ids(store.find(Filter(filename="\u5730\u70b9 7.jpg"))) == ["a"]
    assert ids(store.find(Filter(filename_part="\u70b9 7"))) == ["a"]
    assert ids(store.find(Filter(filename_part="\0"))) == []


def test_a_label_by_a_request_id_that_occurs_twice_is_refused(store: Store) -> None:
    twice = {"request_id": "retry-42"}
    store.commit([entry("a", filename="one.jpg", verdict=twice), entry("b", created_at_s=2000.0, verdict=twice)])
    with pytest.raises(
        SeveralPredictions, match=r"2 predictions have the request id retry-42: b \(.*\), a \(one.jpg\)"
    ):
        store.annotate([("retry-42", Annotation("none", "ann", 1.0))])
    assert store.count(Filter(labeled=True)) == 0
    store.annotate([("a", Annotation("none", "ann", 1.0))])
    assert store.get("a").annotation is not None


def test_the_last_annotation_counts_and_annotations_are_atomic(store: Store) -> None:
    store.commit([entry("a"), entry("b")])
    assert (
        store.annotate([("a", Annotation("none", "ann", 1.0, "a cone")), ("request-b", Annotation(None, "ann", 1.0))])
        == 2
    )
    store.annotate([("a", Annotation("roadwork", "bob", 2.0))])
    marks = {case.prediction.id: case.annotation for case in store.find()}
    assert marks == {"a": Annotation("roadwork", "bob", 2.0), "b": Annotation(None, "ann", 1.0)}
    with pytest.raises(BadRequest, match="the journal has no prediction nobody"):
        store.annotate([("a", Annotation("none", "eve", 3.0)), ("nobody", Annotation("none", "eve", 3.0))])
    assert store.get("a").annotation == Annotation("roadwork", "bob", 2.0)


def photo(number: int, size: int = 1000) -> bytes:
    return b"\xff\xd8\xff" + number.to_bytes(4, "big") + bytes(size - 7)


def test_media_files_are_stored_by_content(opened: Callable[..., Store], tmp_path: Path) -> None:
    store = opened(cap=10**6)
    store.commit([entry("a", media=photo(1)), entry("b", media=photo(1)), entry("c", media=photo(2)), entry("d")])
    assert len(list((tmp_path / "media").glob("*/*.jpg"))) == 2
    kept: dict[str, JournalRow] = {case.prediction.id: case for case in store.find()}
    assert [kept[name].media_available for name in "abcd"] == [True, True, True, False]
    assert (store.read_media(kept["b"]), store.read_media(kept["d"])) == (photo(1), None)


def test_media_leave_room_for_verdicts_on_their_disk(
    opened: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_files, "KEEP_FREE", 2**62)
    store = opened(cap=10**6)
    store.commit([entry("a", media=photo(1))])
    assert not store.get("a").media_available and not list((tmp_path / "media").glob("*/*.jpg"))


def test_the_least_useful_media_are_deleted_first_and_labelled_ones_never(
    opened: Callable[..., Store], tmp_path: Path
) -> None:
    store = opened(cap=10_000)
    sure = [entry(f"sure{number}", 0.999, media=photo(number)) for number in range(8)]
    doubtful = [entry(f"doubt{number}", 0.55, media=photo(100 + number)) for number in range(2)]
    store.commit([*sure, *doubtful])
    store.annotate([("sure0", Annotation("roadwork", "ann", 1.0))])
    store.commit([entry(f"more{number}", 0.6, media=photo(200 + number)) for number in range(5)])
    kept = {case.prediction.id for case in store.find() if case.media_available}
    assert {"sure0", "doubt0", "doubt1", *(f"more{number}" for number in range(5))} <= kept
    assert len(kept) == 9
    on_disk = sum(path.stat().st_size for path in (tmp_path / "media").glob("*/*"))
    assert on_disk == 1000 * len(kept)


def test_labelled_media_may_exceed_the_limit(opened: Callable[..., Store]) -> None:
    store = opened(cap=1_500)
    store.commit([entry("a", media=photo(1))])
    store.annotate([("a", Annotation("none", "ann", 1.0))])
    store.commit([entry("b", media=photo(2))])
    store.annotate([("b", Annotation("none", "ann", 1.0))]) if store.get("b").media_available else None
    store.commit([entry("c", media=photo(3))])
    assert store.get("a").media_available


def test_the_tables_match_the_migrations(store: Store, url: str) -> None:
    seen = inspect(store._engine)
    for table in metadata.sorted_tables:
        columns = {column["name"]: column["nullable"] for column in seen.get_columns(table.name)}
        assert columns == {column.name: bool(column.nullable) for column in table.columns}
        assert {index["name"] for index in seen.get_indexes(table.name)} == {index.name for index in table.indexes}


def test_a_journal_of_a_later_version_is_rejected(url: str, opened: Callable[..., Store]) -> None:
    opened()
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(ConfigError, match=r"a later version wrote this journal \(revision 9999\)"):
        opened()


def test_processes_that_start_together_create_the_tables_once(url: str, opened: Callable[..., Store]) -> None:
    errors: list[Exception] = []

    def begin() -> None:
        try:
            opened().commit([entry("a")])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert ids(opened().find()) == ["a"]


@pytest.mark.parametrize("url_of_none", ["", "mysql://x/y", "journal.db", "sqlite+aiosqlite:///x"])
def test_an_invalid_url_is_rejected(url_of_none: str) -> None:
    with pytest.raises(ConfigError, match="sqlite:///FILE"):
        Store.open(url_of_none)


def test_the_error_of_an_unreachable_database_hides_the_password() -> None:
    with pytest.raises(JournalDown, match=r"ann:\*\*\*@127\.0\.0\.1") as caught:
        Store.open("postgresql://ann:secret@127.0.0.1:1/x?connect_timeout=2")
    assert "secret" not in str(caught.value)
    with pytest.raises(JournalDown) as caught:
        Store.open("postgresql://ann@127.0.0.1:1/x?connect_timeout=2", password="secret")
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_text("no database, but a long enough text to be taken for one" * 20)
    with pytest.raises(JournalDown, match="not a database"):
        Store.open(f"sqlite:///{tmp_path / 'journal.db'}")


def test_arbitrary_client_text_is_stored(store: Store) -> None:
    odd = "a\0b" + "x" * 5000
    store.commit([entry("a", key=odd, caller=odd, verdict={"request_id": odd, "profile": odd})])
    (case,) = store.find()
    assert case.prediction.key == ("a\ufffdb" + "x" * 5000)[:256]
    assert case.prediction.verdict.request_id == odd


def test_a_rejected_record_is_distinguished_from_an_unreachable_database(
    opened: Callable[..., Store], url: str
) -> None:
    if url.startswith("sqlite"):
        pytest.skip("SQLite takes a text of any length")
    store = opened()
    with pytest.raises(RejectedRecords, match="rejects a record"):
        store.commit([entry("a"), entry("b", sha256="0" * 100)])
    assert list(store.find()) == []


def test_a_media_file_that_cannot_be_written_is_skipped(
    opened: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(cap=10**6)

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    store.commit([entry("a", media=photo(1)), entry("b")])
    assert [case.media_available for case in store.find()] == [False, False]
    assert not [path for path in (tmp_path / "media").glob("*/*")]
