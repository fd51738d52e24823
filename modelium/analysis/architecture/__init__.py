"""Layers, weight matrices and quantization derived from a configuration (pure arithmetic)."""
