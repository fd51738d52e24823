"""Leases; on PostgreSQL, names of any length that sort by code point, and wide serial numbers."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

NAMES = {
    "models": ("name", "team", "twin_of"), "versions": ("model", "team"), "reservations": ("model",),
    "approvals": ("model",), "deployments": ("model",), "bookings": ("model",),
    "measured": ("model", "device_kind"), "decision_models": ("model",),
    "departures": ("model", "beneficiary"), "events": ("model",), "traffic": ("model",),
    "standings": ("model",), "rollups": ("model",), "team_usage": ("team",), "requests": ("model",),
}


def upgrade() -> None:
    postgresql = op.get_bind().dialect.name == "postgresql"
    op.create_table(
        "leases",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("until", sa.Float, nullable=False),
    )
    if postgresql:
        for table, columns in NAMES.items():
            changes = ", ".join(f'ALTER "{c}" TYPE varchar COLLATE "C"' for c in columns)
            op.execute(f"ALTER TABLE {table} {changes}")
        for table in ("events", "requests"):
            op.execute(f"ALTER TABLE {table} ALTER id TYPE bigint")
            op.execute(f"ALTER SEQUENCE {table}_id_seq AS bigint")
