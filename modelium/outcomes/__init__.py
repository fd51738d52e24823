"""What came of decisions, derived from the store's decisions, events and requests (no I/O here)."""
