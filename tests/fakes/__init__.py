"""Shipped fakes: an engine process that can misbehave, an NVML library, and their fixtures."""
