"""An index that finds the first request for a model after an instant."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_requests_model_at", "requests", ["model", "at"])
