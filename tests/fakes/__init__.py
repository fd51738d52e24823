"""Fakes for tests: an engine process that can misbehave, an NVML library, clocks, endpoints."""
