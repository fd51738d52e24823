"""Everything except inference: admin API, webhook, metrics endpoint and status page."""
