"""The six stages as plain async functions over `Services`: the logic, without Prefect.

Each has the shape ``async def stage(services, *, …, steps: Steps = inline_steps) -> Report`` and is
idempotent: run twice, it joins or confirms what the first run did.
"""
