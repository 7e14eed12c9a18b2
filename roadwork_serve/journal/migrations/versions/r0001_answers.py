"""Answers, what was said beside them, what people said, and which files are kept."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "answers",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("at_s", sa.Float, nullable=False),
        sa.Column("request_id", sa.String(160), nullable=False),
        sa.Column("media", sa.String(8), nullable=False),
        sa.Column("label", sa.String(16), nullable=False),
        sa.Column("probability", sa.Float, nullable=False),
        sa.Column("exit_stage", sa.String(32), nullable=False),
        sa.Column("exit_reason", sa.String(32), nullable=False),
        sa.Column("degraded", sa.Boolean, nullable=False),
        sa.Column("policy_version", sa.String(160), nullable=False),
        sa.Column("policy_number", sa.Integer, nullable=False),
        sa.Column("profile", sa.String(160), nullable=False),
        sa.Column("arm", sa.String(8)),
        sa.Column("origin", sa.String(16), nullable=False),
        sa.Column("caller", sa.String(160), nullable=False),
        sa.Column("key", sa.String(256), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("survey", sa.Float),
        sa.Column("frames", sa.Integer),
        sa.Column("features", sa.LargeBinary),
        sa.Column("features_model", sa.String(1024), nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
    )
    op.create_index("answers_at", "answers", ["at_s", "id"])
    op.create_index("answers_request", "answers", ["request_id"])
    op.create_table(
        "asides",
        sa.Column("of", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("version", sa.String(160), nullable=False),
        sa.Column("at_s", sa.Float, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("of", "kind", "version"),
    )
    op.create_table(
        "marks",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("of", sa.String(64), sa.ForeignKey("answers.id"), nullable=False),
        sa.Column("label", sa.String(16)),
        sa.Column("by", sa.String(160), nullable=False),
        sa.Column("at_s", sa.Float, nullable=False),
    )
    op.create_index("marks_of", "marks", ["of"])
    op.create_table(
        "files",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("suffix", sa.String(8), nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("at_s", sa.Float, nullable=False),
        sa.Column("useful", sa.Float, nullable=False),
    )
    op.create_index("files_useful", "files", ["useful", "at_s"])
