"""What an LLM did otherwise than the rules, what it cost at most, and what came of it."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "departures",
        sa.Column("decision", sa.String(32), primary_key=True),
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("model", sa.String(128), primary_key=True),
        sa.Column("beneficiary", sa.String(128), nullable=False),
        sa.Column("at", sa.Float, nullable=False, index=True),
        sa.Column("until", sa.Float, nullable=False),
        sa.Column("price_s", sa.Float, nullable=False),
        sa.Column("asked_at", sa.Float),
    )
