"""One description of the journal's columns, from which everything else derives."""

import re
from dataclasses import fields
from datetime import datetime
from pathlib import Path

import pytest

from roadwork_serve.journal.export import export_columns, export_row
from roadwork_serve.journal.record import JournalRow, PredictionRecord
from roadwork_serve.journal.rows import PLAIN_COLUMNS, prediction_values, record_values
from roadwork_serve.journal.tables import predictions
from tests.journal.made import entry

ROOT = Path(__file__).parents[2]
#: The path of a record: from the ingress through the spool into the tables, then to files, clients and the CLI.
PATH = (
    "deployments/journal_*.py",
    "roadwork_serve/journal/**/*.py",
    "roadwork_serve/api/journal_*.py",
    "roadwork_serve/cli/journal*.py",
)


def modules_that_name(column: str) -> set[str]:
    found = (path for pattern in PATH for path in ROOT.glob(pattern))
    return {
        str(path.relative_to(ROOT)) for path in found if re.search(rf"\b{column}\b", path.read_text(encoding="utf-8"))
    }


@pytest.mark.parametrize("column", ["origin", "policy_revision"])
def test_a_column_is_named_in_four_files_at_most(column: str) -> None:
    """The record, the table, a migration and the producer; see the docstring of tables.py."""
    named = modules_that_name(column)
    assert {"roadwork_serve/journal/record.py", "roadwork_serve/journal/tables.py"} <= named
    assert "deployments/journal_outbox.py" in named
    assert any("migrations" in name for name in named)
    old_format = {"roadwork_serve/journal/format_1.py"}  # the names before the first release, which no new column has
    migrations = {name for name in named if "migrations" in name}
    assert len(named - old_format - migrations) + 1 <= 4, named


def test_every_plain_field_of_a_record_has_a_column() -> None:
    plain = {each.name for each in fields(PredictionRecord)} - {"verdict", "media", "features"}
    assert plain <= set(PLAIN_COLUMNS)
    assert record_values(entry("a")).keys() == plain


def test_every_column_is_filled() -> None:
    assert prediction_values(entry("a")).keys() == set(predictions.columns.keys())


def test_an_export_has_the_declared_columns_with_values_of_their_types() -> None:
    row = JournalRow(entry("a", audit_rate=0.5, verdict={"arm": "a"}))
    values = export_row(row)
    assert list(values) == list(export_columns())
    assert all(value is None or isinstance(value, export_columns()[name]) for name, value in values.items())
    assert {name for name, kind in export_columns().items() if kind is datetime} == {"created_at"}
