"""Where a request for a model goes, and how long it waits: bounded queues in memory (no I/O here)."""
