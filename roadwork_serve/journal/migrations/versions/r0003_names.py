"""The field's terms in tables, columns, indexes and stored JSON."""

import json
import logging
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import op

from roadwork_serve.journal.format_1 import upgrade_report, upgrade_verdict

revision = "0003"
down_revision = "0002"

_PAGE = 500  # rows in memory at a time
_LOG = logging.getLogger(__name__)
_TABLES = {
    "answers": "predictions",
    "asides": "deferred_results",
    "marks": "annotations",
    "files": "media_files",
}
_COLUMNS = {
    "predictions": {"at_s": "created_at_s", "policy_number": "policy_revision", "survey": "audit_rate"},
    "deferred_results": {"of": "prediction_id", "version": "policy_version", "at_s": "created_at_s"},
    "annotations": {"number": "id", "of": "prediction_id", "by": "author", "at_s": "created_at_s"},
    "media_files": {"at_s": "created_at_s", "useful": "usefulness"},
}
_INDEXES = {
    "answers_at": ("predictions_created_at", "predictions", ["created_at_s", "id"]),
    "answers_request": ("predictions_request_id", "predictions", ["request_id"]),
    "answers_sha256": ("predictions_sha256", "predictions", ["sha256"]),
    "marks_of": ("annotations_prediction_id", "annotations", ["prediction_id"]),
    "files_useful": ("media_files_usefulness", "media_files", ["usefulness", "created_at_s"]),
}
_POSTGRES = (  # names that PostgreSQL chose
    "ALTER INDEX answers_pkey RENAME TO predictions_pkey",
    "ALTER INDEX asides_pkey RENAME TO deferred_results_pkey",
    "ALTER INDEX marks_pkey RENAME TO annotations_pkey",
    "ALTER INDEX files_pkey RENAME TO media_files_pkey",
    "ALTER SEQUENCE marks_number_seq RENAME TO annotations_id_seq",
    "ALTER TABLE annotations RENAME CONSTRAINT marks_of_fkey TO annotations_prediction_id_fkey",
)


def upgrade() -> None:
    """Rename everything, then rewrite the JSON page by page. All in one transaction."""
    postgres = op.get_bind().dialect.name == "postgresql"
    for old, new in _TABLES.items():
        op.rename_table(old, new)
    for table, columns in _COLUMNS.items():
        for old, new in columns.items():
            op.execute(f'ALTER TABLE {table} RENAME COLUMN "{old}" TO {new}')
    for old, (new, table, columns) in _INDEXES.items():
        if postgres:
            op.execute(f"ALTER INDEX {old} RENAME TO {new}")
        else:  # SQLite cannot rename an index
            op.drop_index(old, table)
            op.create_index(new, table, columns)
    if postgres:
        for statement in _POSTGRES:
            op.execute(statement)
    _rewrite("predictions", ("id",), "verdict", upgrade_verdict)
    _rewrite("deferred_results", ("prediction_id", "kind", "policy_version"), "body", _upgrade_body)
    op.execute("UPDATE deferred_results SET kind = 'audit' WHERE kind = 'survey'")


def _upgrade_body(body: Any) -> Any:
    """Return the body of a deferred result: reports for an audit, a verdict for a shadow policy."""
    return [upgrade_report(report) for report in body] if isinstance(body, list) else upgrade_verdict(body)


def _rewrite(table: str, key: tuple[str, ...], column: str, upgraded: Callable[[Any], Any]) -> None:
    """Replace the JSON in a column. Text that is no such JSON stays as it is, and is counted in the log."""
    connection = op.get_bind()
    keys = [sa.column(name) for name in key]
    where = sa.table(table, *keys, sa.column(column))
    update = sa.update(where).values({column: sa.bindparam("new")})
    update = update.where(*(each == sa.bindparam(f"key_{each.name}") for each in keys))
    query = sa.select(*keys, sa.column(column)).select_from(where).order_by(*keys).limit(_PAGE)
    last: tuple[Any, ...] | None = None
    unreadable = 0
    while True:
        page = connection.execute(query if last is None else query.where(sa.tuple_(*keys) > sa.tuple_(*last))).all()
        changed: list[dict[str, Any]] = []
        for *names, text in page:
            try:
                new = json.dumps(upgraded(json.loads(text)), ensure_ascii=False, separators=(",", ":"))
            except (ValueError, TypeError, AttributeError):
                unreadable += 1
                continue
            changed.append({"new": new} | {f"key_{name}": value for name, value in zip(key, names, strict=True)})
        if changed:
            connection.execute(update, changed)
        if len(page) < _PAGE:
            break
        last = tuple(page[-1])[: len(key)]
    if unreadable:
        _LOG.warning("%d rows of %s hold no readable JSON in %s and stay as they are.", unreadable, table, column)
