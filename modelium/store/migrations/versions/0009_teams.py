"""What drops ask for, and what the models of each team used."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("versions", sa.Column("wishes", sa.JSON))
    op.create_table(
        "team_usage",
        sa.Column("team", sa.String(128), primary_key=True),
        sa.Column("hour", sa.Integer, primary_key=True),
        sa.Column("gpu_seconds", sa.Float, nullable=False),
    )
