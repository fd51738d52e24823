"""Ray Serve: one application per model on a local or an existing cluster."""
