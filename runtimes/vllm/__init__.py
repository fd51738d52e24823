"""vLLM: one server process per model."""
