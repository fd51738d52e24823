"""Triton Inference Server with explicit model control."""
