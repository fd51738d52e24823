"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    meta = op.create_table(
        "meta",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(meta, [{"key": "revision", "value": 0}])
    op.create_table(
        "models",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("state_since", sa.Float, nullable=False),
        sa.Column("registered_at", sa.Float, nullable=False),
        sa.Column("team", sa.String(128)),
        sa.Column("priority", sa.String(8), nullable=False),
        sa.Column("priority_ceiling", sa.String(8), nullable=False),
        sa.Column("pinned", sa.Boolean, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("retry_at", sa.Float),
        sa.Column("evicted_at", sa.Float),
        sa.Column("queued_at", sa.Float),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_table(
        "versions",
        sa.Column("model", sa.String(128), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("registered_at", sa.Float, nullable=False),
        sa.Column("profile", sa.JSON),
    )
    op.create_table(
        "approvals",
        sa.Column("digest", sa.String(80), primary_key=True),
        sa.Column("what", sa.String(32), primary_key=True),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "deployments",
        sa.Column("model", sa.String(128), primary_key=True),
        sa.Column("runtime", sa.String(16), nullable=False),
        sa.Column("document", sa.JSON, nullable=False),
    )
    op.create_table(
        "bookings",
        sa.Column("model", sa.String(128), primary_key=True),
        sa.Column("device", sa.String(200), primary_key=True),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("resident_bytes", sa.BigInteger, nullable=False),
        sa.Column("releasing", sa.Boolean, nullable=False),
    )
    op.create_table(
        "measured",
        sa.Column("model", sa.String(128), primary_key=True),
        sa.Column("runtime", sa.String(16), primary_key=True),
        sa.Column("device_kind", sa.String(128), primary_key=True),
        sa.Column("settings_digest", sa.String(64), primary_key=True),
        sa.Column("per_device_bytes", sa.BigInteger, nullable=False),
        sa.Column("load_s", sa.Float, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "decisions",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("at", sa.Float, nullable=False, index=True),
        sa.Column("document", sa.JSON, nullable=False),
    )
    op.create_table(
        "decision_models",
        sa.Column("decision", sa.String(32), primary_key=True),
        sa.Column("model", sa.String(128), primary_key=True, index=True),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("model", sa.String(128), index=True),
        sa.Column("detail", sa.JSON, nullable=False),
    )
    op.create_table(
        "intents",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("at", sa.Float, nullable=False, index=True),
        sa.Column("document", sa.JSON, nullable=False),
    )
    op.create_table(
        "traffic",
        sa.Column("model", sa.String(128), primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("document", sa.JSON, nullable=False),
    )


def downgrade() -> None:
    for table in (
        "traffic", "intents", "events", "decision_models", "decisions", "measured", "bookings",
        "deployments", "approvals", "versions", "models", "meta",
    ):
        op.drop_table(table)
