"""The brain: the rule planner, the LLM advisor, and both combined. It decides, never acts."""
