"""Alembic migrations of the store; `modelium.store.store.Store.open` applies them."""
