"""Where requests for a model go, and how long they wait: bounded in-memory queues (no I/O)."""
