"""The LLM advisor: its prompts, read-only tools, and the choices that it is given."""
