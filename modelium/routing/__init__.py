"""Where a request for a model goes, and how long it waits: bounded queues (no I/O here)."""
