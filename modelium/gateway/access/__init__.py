"""Authentication and authorization, and the limits of API keys."""
