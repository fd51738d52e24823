"""History: hourly rollups of traffic, and a log of requests."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    meta = sa.table("meta", sa.column("key", sa.String), sa.column("value", sa.BigInteger))
    op.bulk_insert(meta, [{"key": "seen", "value": 0}])
    op.create_table(
        "rollups",
        sa.Column("model", sa.String(128), primary_key=True),
        sa.Column("hour", sa.Integer, primary_key=True, index=True),
        sa.Column("requests", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("direct", sa.Integer, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("generated_tokens", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "requests",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False, index=True),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("prompt_tokens", sa.Integer),
        sa.Column("generated_tokens", sa.Integer),
        sa.Column("latency_s", sa.Float, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("requests")
    op.drop_table("rollups")
    op.execute("DELETE FROM meta WHERE key = 'seen'")
