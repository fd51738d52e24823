"""What the configuration said of each model, so that a change of it can be told from others'."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("models") as table:
        table.add_column(sa.Column("asked", sa.JSON))
        table.add_column(sa.Column("declared", sa.JSON))


def downgrade() -> None:
    with op.batch_alter_table("models") as table:
        table.drop_column("declared")
        table.drop_column("asked")
