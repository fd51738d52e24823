"""The brain: rules, the LLM agent, and the chain between them. Decides, never acts."""
