"""The client's name of the file."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add a column, which is empty in older predictions."""
    op.add_column("predictions", sa.Column("filename", sa.String(255), nullable=False, server_default=""))
