"""The data plane: forwards inference requests to engines and counts tokens."""
