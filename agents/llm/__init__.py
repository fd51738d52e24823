"""The LLM advisor: prompts, read-only tools, and what it may choose."""
