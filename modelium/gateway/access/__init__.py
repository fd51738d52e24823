"""Who may do what: API keys, rate limits, and the checks before a request is routed."""
