"""What a configuration implies: layers, weight matrices, quantization (pure arithmetic)."""
