"""The control plane: admin API, webhook, metrics endpoint and status page."""
