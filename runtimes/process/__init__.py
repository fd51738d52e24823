"""Supervision of engine processes: start, adoption, logs, stall detection, verified release."""
