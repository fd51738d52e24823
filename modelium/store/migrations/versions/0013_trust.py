"""Departures that are only recorded, and by which requests each is judged.

The time of earlier ones was not watched: they count for their budget, and are not judged.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "departures", sa.Column("shadow", sa.Boolean, nullable=False, server_default=sa.false())
    )
    op.add_column("departures", sa.Column("right_if", sa.JSON))
    op.add_column("departures", sa.Column("wrong_if", sa.JSON))
    op.add_column("departures", sa.Column("needed_at", sa.Float))
    op.add_column("departures", sa.Column("seen_until", sa.Float))
    op.execute("UPDATE departures SET asked_at = NULL")
