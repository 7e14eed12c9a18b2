"""The journal's tables, for SQLite and PostgreSQL alike. What they were before is in `migrations`."""

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

answers = Table(
    "answers",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("at_s", Float, nullable=False),
    Column("request_id", String(160), nullable=False),
    Column("media", String(8), nullable=False),
    Column("label", String(16), nullable=False),
    Column("probability", Float, nullable=False),
    Column("exit_stage", String(32), nullable=False),
    Column("exit_reason", String(32), nullable=False),
    Column("degraded", Boolean, nullable=False),
    Column("policy_version", String(160), nullable=False),
    Column("policy_revision", Integer, nullable=False),
    Column("profile", String(160), nullable=False),
    Column("arm", String(8)),
    Column("origin", String(16), nullable=False),
    Column("caller", String(160), nullable=False),
    Column("key", String(256), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size", Integer, nullable=False),
    Column("audit", Float),
    Column("frames", Integer),  # of the features, whose bytes are float16 [frames, width]
    Column("features", LargeBinary),
    Column("features_model", String(1024), nullable=False),
    Column("verdict", Text, nullable=False),  # whole, as JSON
    Index("answers_at", "at_s", "id"),
    Index("answers_request", "request_id"),
    Index("answers_sha256", "sha256"),
)

asides = Table(
    "asides",
    metadata,
    Column("of", String(64), nullable=False),  # may come before its answer, so it refers to nothing
    Column("kind", String(16), nullable=False),
    Column("version", String(160), nullable=False),  # of a shadow's policy
    Column("at_s", Float, nullable=False),
    Column("body", Text, nullable=False),
    PrimaryKeyConstraint("of", "kind", "version"),
)

marks = Table(
    "marks",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),  # the highest of an answer counts
    Column("of", String(64), ForeignKey("answers.id"), nullable=False),
    Column("label", String(16)),
    Column("by", String(160), nullable=False),
    Column("at_s", Float, nullable=False),
    Column("note", Text, nullable=False, server_default=""),
    Index("marks_of", "of"),
)

files = Table(
    "files",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("suffix", String(8), nullable=False),
    Column("size", Integer, nullable=False),
    Column("at_s", Float, nullable=False),
    Column("useful", Float, nullable=False),  # what has least of it goes first
    Index("files_useful", "useful", "at_s"),
)
