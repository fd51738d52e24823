"""A real service, real clients and something that goes wrong: ``python -m tests.chaos``.

Every trial drops models into a running service, sends requests, has one fault happen at a moment
that its seed chooses, and lets the service run on. Once it is at rest, the invariants of
`tests.invariants` hold, and each healthy model answers.
"""
