"""Several machines: nodes, what they ask, what they lost, which files they have; their traffic."""

import sqlalchemy as sa
from alembic import op

from modelium.store.postgresql import string

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

NODE, NAME = string(64), string(128)


def upgrade() -> None:
    op.create_table(
        "nodes",
        sa.Column("name", NODE, primary_key=True),
        sa.Column("identity", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("joined_at", sa.Float, nullable=False),
        sa.Column("seen_at", sa.Float, nullable=False),
        sa.Column("document", sa.JSON, nullable=False),
    )
    op.create_table(
        "join_tokens",
        sa.Column("hash", sa.String(64), primary_key=True),
        sa.Column("until", sa.Float, nullable=False),
    )
    op.create_table(
        "questions",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("node", NODE, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("document", sa.JSON, nullable=False),
        sa.Column("answered_at", sa.Float, index=True),
        sa.Column("answer", sa.JSON),
    )
    op.create_table(
        "strays",
        sa.Column("node", NODE, primary_key=True),
        sa.Column("model", NAME, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("document", sa.JSON, nullable=False),
    )
    op.create_table(
        "copies",
        sa.Column("node", NODE, primary_key=True),
        sa.Column("model", NAME, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
    )
    # Rows of the time before have no node; the one that reads them first takes them over.
    op.rename_table("traffic", "traffic_before")
    op.create_table(
        "traffic",
        sa.Column("node", NODE, primary_key=True),
        sa.Column("model", NAME, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("document", sa.JSON, nullable=False),
    )
    op.execute(
        "INSERT INTO traffic (node, model, at, document) "
        "SELECT '', model, at, document FROM traffic_before"
    )
    op.drop_table("traffic_before")
