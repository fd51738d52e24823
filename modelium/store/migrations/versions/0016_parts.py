"""Models over several nodes: what each node other than the first runs of them."""

import sqlalchemy as sa
from alembic import op

from modelium.store.postgresql import string

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "parts",
        sa.Column("node", string(64), primary_key=True),
        sa.Column("model", string(128), primary_key=True),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("document", sa.JSON, nullable=False),
    )
