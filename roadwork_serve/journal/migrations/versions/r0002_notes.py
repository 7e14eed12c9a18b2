"""A note with what a person said, and answers found by the file they are of."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add a column and an index."""
    op.add_column("marks", sa.Column("note", sa.Text, nullable=False, server_default=""))
    op.create_index("answers_sha256", "answers", ["sha256"])
