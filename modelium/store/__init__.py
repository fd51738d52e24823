"""The durable truth: models, deployments, bookings, decisions, events, intents, traffic, keys.

The only imports of SQLAlchemy and Alembic.
"""

from modelium.store.async_store import AsyncStore
from modelium.store.store import Store, new_id

__all__ = ["AsyncStore", "Store", "new_id"]
