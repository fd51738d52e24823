"""Three machines on one: network namespaces, real engines, PostgreSQL and Prefect, and what happens
to them.

`network` lays the cables, `servers` and `node` run in them, `client` sends requests and keeps the
account, `observer` looks from outside, `scenarios` says what happens. ``make machines`` runs all.
"""
