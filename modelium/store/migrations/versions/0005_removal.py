"""Removal of models and versions; two versions of a model side by side."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("removal", sa.JSON))
    op.add_column("models", sa.Column("twin_of", sa.String(128)))
    op.add_column("versions", sa.Column("removed_at", sa.Float))
    op.add_column("versions", sa.Column("removed_by", sa.Text))
    op.add_column("versions", sa.Column("purge", sa.Boolean))
    op.add_column("versions", sa.Column("proven_at", sa.Float))
