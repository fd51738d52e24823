"""Estimates of the memory that a model needs in an engine (pure arithmetic)."""
