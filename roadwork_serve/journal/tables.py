"""The journal's tables, for SQLite and PostgreSQL alike. Earlier layouts are in `migrations`.

To add a column to `predictions`, edit four files:

1. `journal/record.py`: the field of `PredictionRecord`, with a default, so that records in a spool stay readable;
2. `journal/tables.py`: the column, of the same name, with `source` naming the field (or a path into the verdict);
3. `journal/migrations/versions/`: a migration that adds the column;
4. the producer of the value, for most `deployments/journal_outbox.py`.

Spool records, SQL rows, CSV and Parquet exports, FiftyOne samples and `roadwork journal show` derive from the first
two. A value of the verdict needs only the second and the third. To filter by the column, name it in `journal/filter.py`
as well.
"""

from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)

metadata = MetaData()


def _from(source: str, exported: bool = True, truncated: bool = False) -> dict[str, Any]:
    """Return a column's `info`.

    Args:
        source: path of attributes from the `PredictionRecord` to the value.
        exported: whether tables for people contain the column.
        truncated: cut the text to the column's length, for texts that clients choose.
    """
    return {"source": source, "exported": exported, "truncated": truncated}


predictions = Table(
    "predictions",
    metadata,
    Column("id", String(64), primary_key=True, info=_from("id")),
    Column("created_at_s", Float, nullable=False, info=_from("created_at_s")),
    Column("request_id", String(160), nullable=False, info=_from("verdict.request_id", truncated=True)),
    Column("media", String(8), nullable=False, info=_from("verdict.media")),
    Column("label", String(16), nullable=False, info=_from("verdict.label")),
    Column("probability", Float, nullable=False, info=_from("verdict.probability")),
    Column("exit_stage", String(32), nullable=False, info=_from("verdict.exit.stage")),
    Column("exit_reason", String(32), nullable=False, info=_from("verdict.exit.reason")),
    Column("degraded", Boolean, nullable=False, info=_from("verdict.degraded")),
    Column("policy_version", String(160), nullable=False, info=_from("verdict.policy_version")),
    Column("policy_revision", Integer, nullable=False, info=_from("policy_revision")),
    Column("profile", String(160), nullable=False, info=_from("verdict.profile", truncated=True)),
    Column("arm", String(8), info=_from("verdict.arm")),
    Column("origin", String(16), nullable=False, info=_from("origin")),
    Column("caller", String(160), nullable=False, info=_from("caller", truncated=True)),
    Column("key", String(256), nullable=False, info=_from("key", truncated=True)),
    Column("sha256", String(64), nullable=False, info=_from("sha256")),
    Column("size", Integer, nullable=False, info=_from("size")),
    Column("filename", String(255), nullable=False, server_default="", info=_from("filename", truncated=True)),
    Column("audit_rate", Float, info=_from("audit_rate")),
    Column("features_model", String(1024), nullable=False, info=_from("features_model", exported=False)),
    # `rows` converts the three below.
    Column("frames", Integer),  # rows of the features, whose bytes are float16 [frames, width]
    Column("features", LargeBinary),
    Column("verdict", Text, nullable=False),  # all of it, as JSON
    Index("predictions_created_at", "created_at_s", "id"),
    Index("predictions_request_id", "request_id"),
    Index("predictions_sha256", "sha256"),
)

deferred_results = Table(
    "deferred_results",
    metadata,
    Column("prediction_id", String(64), nullable=False),  # no foreign key: it may arrive before its prediction
    Column("kind", String(16), nullable=False),
    Column("policy_version", String(160), nullable=False),  # of a shadow policy; empty for an audit
    Column("created_at_s", Float, nullable=False),
    Column("body", Text, nullable=False),  # an audit's reports or a shadow's verdict, as JSON
    PrimaryKeyConstraint("prediction_id", "kind", "policy_version"),
)

annotations = Table(
    "annotations",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),  # the highest of a prediction counts
    Column("prediction_id", String(64), ForeignKey("predictions.id"), nullable=False),
    Column("label", String(16)),
    Column("author", String(160), nullable=False),
    Column("created_at_s", Float, nullable=False),
    Column("note", Text, nullable=False, server_default=""),
    Index("annotations_prediction_id", "prediction_id"),
)

media_files = Table(
    "media_files",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("suffix", String(8), nullable=False),
    Column("size", Integer, nullable=False),
    Column("created_at_s", Float, nullable=False),
    Column("usefulness", Float, nullable=False),  # the least useful file is deleted first
    Index("media_files_usefulness", "usefulness", "created_at_s"),
)
