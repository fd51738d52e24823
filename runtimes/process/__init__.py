"""Supervision of engine processes: start, adoption, logs, stalls and verified release."""
