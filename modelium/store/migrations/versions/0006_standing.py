"""What the configuration said of each model, so that a change of it can be told from others'."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "standings",
        sa.Column("model", sa.String(128), primary_key=True),
        sa.Column("asked", sa.JSON, nullable=False),
        sa.Column("declared", sa.JSON, nullable=False),
    )
