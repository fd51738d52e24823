"""The deterministic planner: placement, eviction, queueing, prewarming (no I/O here)."""
