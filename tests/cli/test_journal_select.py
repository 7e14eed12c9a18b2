import csv
import json
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from roadwork_serve.cli import journal_select
from roadwork_serve.journal.drift import drift
from roadwork_serve.journal.drift_report import recent_drift
from roadwork_serve.journal.record import Annotation
from roadwork_serve.journal.store import Store
from tests.journal.made import entry
from tests.journal.test_drift import traffic

HOUR_S, DAY_S = 3600.0, 86_400.0


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(journal_select.rank)
    app.command()(journal_select.sample)
    app.command()(journal_select.drift)
    return app


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'journal.db'}"


@pytest.fixture
def store(url: str, tmp_path: Path) -> Iterator[Store]:
    """Yield a hundred answers, the closer the later; two are duplicates, one is labeled, three have files."""
    store = Store.open(url, media_folder=tmp_path / "media", max_media_bytes=10**6)
    rng = np.random.default_rng(1)
    entries = []
    for number in range(100):
        media = b"\xff\xd8\xff" + bytes([number]) if number >= 97 else None
        vector = rng.normal(0, 1, (1, 8)).astype(np.float16)
        entries.append(entry(f"{number:02d}", 1 - number / 200, float(number), features=vector, media=media))
    entries.append(entry("again", 0.52, 100.0, features=entries[98].features))
    store.commit(entries)
    store.annotate([("99", Annotation("roadwork", "ann", 1.0))])
    yield store
    store.close()


def test_the_most_informative_are_printed_as_a_table_and_as_json(app: typer.Typer, url: str, store: Store) -> None:
    run = CliRunner().invoke(app, ["rank", "--journal", url, "--limit", "20", "--json"])
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.exit_code == 0 and len(rows) == 20
    assert {each["id"]: each["duplicates"] for each in rows}.items() >= {"98": 1, "99": 0}.items()
    assert [each["informativeness"] for each in rows] == sorted(
        (each["informativeness"] for each in rows), reverse=True
    )
    assert "again" not in {each["id"] for each in rows}
    table = CliRunner().invoke(app, ["rank", "--journal", url, "--limit", "20", "--unlabeled"], env={"COLUMNS": "200"})
    assert "98" in table.stdout and "margin 0.98" in table.stdout
    assert "\n99 " not in table.stdout


def test_a_sample_is_written_with_its_media(app: typer.Typer, url: str, store: Store, tmp_path: Path) -> None:
    out, pictures = tmp_path / "sample.csv", tmp_path / "pictures"
    arguments = ["sample", str(out), "--journal", url, "--count", "40", "--copy-media", str(pictures), "--seed", "1"]
    run = CliRunner().invoke(app, [*arguments, "--informative-share", "0.5"])
    assert run.exit_code == 0, run.output
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert len(rows) == 40
    assert "40 of 101 entries (100 distinct" in run.stdout
    kept = {row["id"] for row in rows if row["media_available"] == "true"}
    assert "98" in kept and {path.name for path in pictures.iterdir()} == {f"{name}.jpg" for name in kept}
    assert [row["weight"] for row in rows if row["id"] == "98"] == ["2"]


def test_a_sample_can_be_labeled_as_it_is(app: typer.Typer, url: str, store: Store, tmp_path: Path) -> None:
    from roadwork_serve.cli.journal import journal

    out = tmp_path / "sample.csv"
    CliRunner().invoke(app, ["sample", str(out), "--journal", url, "--count", "10"])
    lines = list(csv.DictReader(out.read_text().splitlines()))
    lines[0]["label"], lines[0]["note"] = "unclear", "fog"
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    run = CliRunner().invoke(journal, ["label", "--csv", str(out), "--journal", url, "--author", "bob"])
    assert run.exit_code == 0, run.output
    mark = store.get(lines[0]["id"]).annotation
    assert mark is not None and (mark.label, mark.author, mark.note) == (None, "bob", "fog")


def test_drift_compares_the_last_hours_with_those_before(url: str, tmp_path: Path) -> None:
    store = Store.open(url)
    store.commit([entry(f"r{n}", 0.9, DAY_S + n, features=None) for n in range(60)])
    store.commit([entry(f"w{n}", 0.1, 3 * DAY_S - 1 - n, features=None) for n in range(50)])
    store.commit([entry("old", 0.1, 0.0), entry("future", 0.1, 4 * DAY_S)])
    result = recent_drift(store, window_hours=24, reference_hours=40, now_s=3 * DAY_S)
    store.close()
    assert (result.reference, result.window) == (60, 50)
    assert {shift.name for shift in result.significant()} == {"verdict", "backbone"}


def test_a_detected_change_exits_with_1(app: typer.Typer, url: str) -> None:
    store, now = Store.open(url), time.time()
    store.commit([entry(f"r{n}", 0.9, now - 40 * HOUR_S + n, features=None) for n in range(60)])
    store.commit([entry(f"same{n}", 0.9, now - 7 * HOUR_S + n, features=None) for n in range(50)])
    calm = CliRunner().invoke(app, ["drift", "--journal", url, "--json"])
    store.commit([entry(f"w{n}", 0.1, now - 60 - n, features=None) for n in range(50)])
    store.close()
    changed = CliRunner().invoke(app, ["drift", "--journal", url, "--window-hours", "6", "--json"])
    assert (calm.exit_code, json.loads(calm.stdout)["significant"]) == (0, [])
    assert (changed.exit_code, json.loads(changed.stdout)["significant"]) == (1, ["backbone", "verdict"])


def test_the_table_marks_changes_and_samples_that_are_too_small() -> None:
    changed = drift(traffic(300, 1), traffic(200, 2, shift=1.0))
    console = Console(width=160, record=True, file=StringIO())
    console.print(
        journal_select.drift_table(changed), journal_select.drift_table(drift(traffic(300, 1), traffic(3, 2)))
    )
    text = console.export_text()
    assert "200 entries against 300 before" in text
    assert [line.split()[0] for line in text.splitlines() if "has changed" in line] == ["features"]
    assert "the window has 3 predictions; the test needs 30" in text
