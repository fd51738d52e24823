"""Alembic migrations of the store; `modelium.store.Store.open` applies them."""
