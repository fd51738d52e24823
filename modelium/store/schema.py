"""The tables of the store (definitions alone; `modelium.store.store` reads and writes them)."""

from __future__ import annotations

import sqlalchemy as sa

from modelium.store.postgresql import string

metadata = sa.MetaData()

NAME = string(128)
"""Of models, their twins, teams and kinds of devices."""

NODE = string(64)

SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""SQLite counts to 2^63 in any integer key; PostgreSQL's own end at 2^31, two years of requests."""

meta = sa.Table(
    "meta",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)
"""``revision`` counts every change that a plan may depend on; ``seen`` those of what was measured,
which make no plan stale. ``since`` is the first revision whose Modelium can use these
tables: a migration that does more than add to them sets it to its own number."""

models = sa.Table(
    "models",
    metadata,
    sa.Column("name", NAME, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("state_since", sa.Float, nullable=False),
    sa.Column("registered_at", sa.Float, nullable=False),
    sa.Column("team", NAME),
    sa.Column("priority", sa.String(8), nullable=False),
    sa.Column("priority_ceiling", sa.String(8), nullable=False),
    sa.Column("pinned", sa.Boolean, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("retry_at", sa.Float),
    sa.Column("setbacks", sa.JSON),
    sa.Column("evicted_at", sa.Float),
    sa.Column("queued_at", sa.Float),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("removal", sa.JSON),
    sa.Column("twin_of", NAME),
)
"""``removal``: set from an operator's request until nothing is loaded any more, then the row goes.
``twin_of``: the row is another version of that model, loaded beside it while they are switched."""

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("model", NAME, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("digest", sa.String(80), nullable=False),
    sa.Column("registered_at", sa.Float, nullable=False),
    sa.Column("profile", sa.JSON),
    sa.Column("preference", sa.JSON),
    sa.Column("removed_at", sa.Float),
    sa.Column("removed_by", sa.Text),
    sa.Column("purge", sa.Boolean),
    sa.Column("team", NAME),
    sa.Column("proven_at", sa.Float),
    sa.Column("seal", sa.String(80)),
    sa.Column("wishes", sa.JSON),
)
"""A removed version keeps its row: its number is never used again, and while its folder is still
in the repository, the folder is to be moved to the trash (``purge``: to be deleted). ``team``: of a
removed one, whose it was.
``proven_at``: when it had answered its first requests; until then an earlier version may return.
``seal``: of its files when their content was read last, see `modelium.analysis.seal`.
``wishes``: the note that lies among its files."""

reservations = sa.Table(
    "reservations",
    metadata,
    sa.Column("model", NAME, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("digest", sa.String(80), nullable=False),
    sa.Column("asked", sa.JSON, nullable=False),
)
"""Version numbers that are promised; ``asked``: the options that the drop came with."""

approvals = sa.Table(
    "approvals",
    metadata,
    sa.Column("digest", sa.String(80), primary_key=True),
    sa.Column("what", sa.String(32), primary_key=True),
    sa.Column("model", NAME, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
"""Approvals, bound to a content digest: a later drop of the same name is not covered."""

deployments = sa.Table(
    "deployments",
    metadata,
    sa.Column("model", NAME, primary_key=True),
    sa.Column("runtime", sa.String(16), nullable=False),
    sa.Column("document", sa.JSON, nullable=False),
)

bookings = sa.Table(
    "bookings",
    metadata,
    sa.Column("model", NAME, primary_key=True),
    sa.Column("device", sa.String(200), primary_key=True),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("resident_bytes", sa.BigInteger, nullable=False),  # 0: not known
    sa.Column("releasing", sa.Boolean, nullable=False),
)

measured = sa.Table(
    "measured",
    metadata,
    sa.Column("model", NAME, primary_key=True),
    sa.Column("runtime", sa.String(16), primary_key=True),
    sa.Column("device_kind", NAME, primary_key=True),
    sa.Column("settings_digest", sa.String(64), primary_key=True),
    sa.Column("per_device_bytes", sa.BigInteger, nullable=False),
    sa.Column("load_s", sa.Float, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)

decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("at", sa.Float, nullable=False, index=True),
    sa.Column("document", sa.JSON, nullable=False),
)

decision_models = sa.Table(
    "decision_models",
    metadata,
    sa.Column("decision", sa.String(32), primary_key=True),
    sa.Column("model", NAME, primary_key=True, index=True),
)

departures = sa.Table(
    "departures",
    metadata,
    sa.Column("decision", sa.String(32), primary_key=True),
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("model", NAME, primary_key=True),
    sa.Column("beneficiary", NAME, nullable=False),
    sa.Column("at", sa.Float, nullable=False, index=True),
    sa.Column("until", sa.Float, nullable=False),
    sa.Column("price_s", sa.Float, nullable=False),
    sa.Column("asked_at", sa.Float),
    sa.Column("shadow", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("right_if", sa.JSON),
    sa.Column("wrong_if", sa.JSON),
    sa.Column("needed_at", sa.Float),
    sa.Column("seen_until", sa.Float),
)
"""What an LLM did otherwise than the rules; the budgets of `brain.may` are sums over it."""

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("model", NAME, index=True),
    sa.Column("detail", sa.JSON, nullable=False),
)

intents = sa.Table(
    "intents",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("at", sa.Float, nullable=False, index=True),
    sa.Column("document", sa.JSON, nullable=False),
)

traffic = sa.Table(
    "traffic",
    metadata,
    sa.Column("node", NODE, primary_key=True),
    sa.Column("model", NAME, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("document", sa.JSON, nullable=False),
)
"""Last known traffic of each model, as the gateways of each node counted it; taken up again after a
restart. Requests that one node forwards to another count once, see `modelium.traffic`."""

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
    sa.Column("document", sa.JSON, nullable=False),
)
"""``hash``: SHA-256 of the secret, in hex."""

key_pools = sa.Table(
    "key_pools",
    metadata,
    sa.Column("key", sa.String(32), primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("document", sa.JSON, nullable=False),
)
"""What is left of the limits of keys that are in use at several gateways; ``at``: when it was last
used, by the database's own clock."""

standings = sa.Table(
    "standings",
    metadata,
    sa.Column("model", NAME, primary_key=True),
    sa.Column("asked", sa.JSON, nullable=False),
    sa.Column("declared", sa.JSON, nullable=False),
)
"""``asked``: team and ceiling of the drop, and of its note; ``declared``: what these and the
configuration made of it. ``models`` has what counts now, which plans and operators change, too."""

rollups = sa.Table(
    "rollups",
    metadata,
    sa.Column("model", NAME, primary_key=True),
    sa.Column("hour", sa.Integer, primary_key=True, index=True),
    sa.Column("requests", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("direct", sa.Integer, nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("generated_tokens", sa.BigInteger, nullable=False),
)
"""Traffic by the hour (``hour``: hours since the epoch), of hours that had any."""

team_usage = sa.Table(
    "team_usage",
    metadata,
    sa.Column("team", NAME, primary_key=True),
    sa.Column("hour", sa.Integer, primary_key=True),
    sa.Column("gpu_seconds", sa.Float, nullable=False),
)
"""What the loaded models of each team used by the hour; ``team`` is empty for models without."""

requests = sa.Table(
    "requests",
    metadata,
    sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Float, nullable=False, index=True),
    sa.Column("model", NAME, nullable=False),
    sa.Column("prompt_tokens", sa.Integer),
    sa.Column("generated_tokens", sa.Integer),
    sa.Column("latency_s", sa.Float, nullable=False),
    sa.Index("ix_requests_model_at", "model", "at"),
)
"""The request log: it stores no content and no client identity."""

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("until", sa.Float, nullable=False),
)
"""Who may do what one process at a time does, ``until`` a time of the database's own clock (epoch
seconds). ``epoch`` grows each time that it changes hands."""

nodes = sa.Table(
    "nodes",
    metadata,
    sa.Column("name", NODE, primary_key=True),
    sa.Column("identity", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("joined_at", sa.Float, nullable=False),
    sa.Column("seen_at", sa.Float, nullable=False),
    sa.Column("document", sa.JSON, nullable=False),
)
"""The machines that share the store. ``identity``: SHA-256 of a secret that the machine keeps, in
hex; ``seen_at``: its last heartbeat, a time of the database's own clock; ``document``: what it
said of itself then."""

join_tokens = sa.Table(
    "join_tokens",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("until", sa.Float, nullable=False),
)
"""SHA-256 of the tokens with which a machine may join, each once; ``until``: database time."""

questions = sa.Table(
    "questions",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("node", NODE, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("document", sa.JSON, nullable=False),
    sa.Column("answered_at", sa.Float, index=True),
    sa.Column("answer", sa.JSON),
)
"""What nodes ask of the one that plans. Times are the database's own."""

strays = sa.Table(
    "strays",
    metadata,
    sa.Column("node", NODE, primary_key=True),
    sa.Column("model", NAME, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("document", sa.JSON, nullable=False),
)
"""Deployments on silent nodes whose models were given up there: each node clears its own when it
returns, and nothing is loaded on it before."""

copies = sa.Table(
    "copies",
    metadata,
    sa.Column("node", NODE, primary_key=True),
    sa.Column("model", NAME, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
)
"""Which nodes have the files of which version."""

parts = sa.Table(
    "parts",
    metadata,
    sa.Column("node", NODE, primary_key=True),
    sa.Column("model", NAME, primary_key=True),
    sa.Column("id", sa.String(32), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("document", sa.JSON, nullable=False),
)
"""What each node runs of a model over several nodes, the first of them aside; see
`modelium.models.parts`. ``id``: of the attempt. A row ends with the part."""
