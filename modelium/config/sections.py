"""The sections of the configuration file, but those of the runtimes (no I/O here)."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, Strict

from modelium.config.fields import (
    Count,
    Days,
    Directory,
    HttpUrl,
    Interval,
    ModelName,
    Note,
    Port,
    Seconds,
    Secret,
    Section,
    Share,
    Switch,
    Text,
    setting,
)
from modelium.models import MODEL_NAME, Priority


def _fits_a_header(token: SecretStr) -> SecretStr:
    # What a header cannot carry would lock everybody out.
    text = token.get_secret_value()
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError("not printable ASCII without spaces")
    return token


AliasName = Annotated[
    str, Field(pattern=r"^[!-~]{1,200}$"), Note(kind="text (up to 200 characters, no spaces)")
]
AliasTarget = Annotated[
    str,
    Field(pattern=MODEL_NAME.removesuffix("$") + r"(:[0-9]{1,9})?$"),
    Note(kind="model name, or NAME:VERSION"),
]

Token = Annotated[
    SecretStr,
    Field(min_length=1),
    AfterValidator(_fits_a_header),
    Note(kind="text (printable ASCII without spaces)", hidden=True),
]


class Policies(Section):
    """When models are unloaded, what stays, and what goes first."""

    auto_unload_after_seconds: Seconds = setting(
        3600.0,
        "Idle time after which a model may be unloaded.",
        why="An hour: a reload costs about a minute, so keeping it longer seldom pays.",
    )
    min_qps_threshold: Annotated[
        float, Strict(), Field(ge=0), Note(unit="requests per second over the last hour")
    ] = setting(
        0.1,
        "A model at or above this rate is not unloaded for idling.",
        why="0.1 is a request every ten seconds: a pause within such traffic is no end of it.",
    )
    pending_requests_threshold: Annotated[Count, Note(unit="requests")] = setting(
        0,
        "Waiting requests that must be exceeded before a model is loaded on demand.",
        why="0: the first request loads it, as somebody waits for it.",
    )
    always_loaded: frozenset[ModelName] = setting(
        frozenset(),
        "Models that are loaded at start and never evicted.",
        why="None: what must never leave memory is the operator's to say.",
    )
    max_gpu_memory_utilization: Share = setting(
        0.9,
        "Share of each device's memory that models may take.",
        why="0.9 leaves room for drivers, other processes and peaks.",
    )
    enable_model_swapping: Switch = setting(
        True,
        "Whether an idle model may be unloaded to make room for another one.",
        why="On: without it the first models to come keep the devices.",
    )
    high_priority_teams: frozenset[Text] = setting(
        frozenset(),
        "Teams whose models rank `medium` instead of `low` unless `models` says otherwise.",
        why="None: all teams are alike until the operator ranks them.",
    )
    min_residency_seconds: Seconds = setting(
        60.0,
        "A model is not evicted for another one sooner than this after it became ready.",
        why="A minute, about one load: otherwise two models could swap endlessly.",
    )
    reload_cooldown_seconds: Seconds = setting(
        30.0,
        "A model evicted for space is not brought back by the planner sooner than this; "
        "requests and operators are not bound by it.",
        why="30 s bridges the lull in which its traffic still looks recent.",
    )
    allow_remote_code: Switch = setting(
        False,
        "Whether Python code in dropped folders may run.",
        why="Off: anybody who can drop a folder could run code. `models` allows it one by one.",
    )
    allow_pickle: Switch = setting(
        False,
        "Whether pickle-based weight files are accepted.",
        why="Off: opening a pickle runs code. `models` allows it one by one.",
    )


class Metrics(Section):
    """Modelium's own Prometheus exporter."""

    prometheus_enabled: Switch = setting(
        True,
        "Whether the exporter listens on a port of its own.",
        why="On: scraping needs no gateway token there. The gateway serves /metrics in any case.",
    )
    prometheus_port: Port = setting(
        9090,
        "TCP port of the exporter.",
        why="Give a Prometheus server on the same host another port: 9090 is its default too.",
    )
    collection_interval_seconds: Interval = setting(
        10.0,
        "Time between two looks of the control loop at devices, runtimes and traffic.",
        why="10 s is quick against loads that take a minute.",
    )
    history_retention_days: Days = setting(
        30.0,
        "How long each model's traffic by the hour is kept.",
        why="A month shows weekly patterns; a row an hour for each model that was used.",
    )
    request_log: Switch = setting(
        True,
        "Whether time, model, tokens and latency of each request are kept; never its content.",
        why="On: `modelium replay --from-store` tells what other policies would have made of it.",
    )
    request_log_retention_days: Days = setting(
        7.0,
        "How long lines of the request log are kept.",
        why="A week has every day's pattern once; the latest million lines at most (70 MB).",
    )


class Orchestration(Section):
    """What is watched and how it is managed."""

    enabled: Switch = setting(
        True,
        "False: observe and serve what runs, load and unload nothing.",
        why="On: managing models is what Modelium is for.",
    )
    model_repository: Directory = setting(
        Path("/models/repository"),
        "Folder that all runtimes read models from.",
        why="One place, mounted by every runtime under the same path.",
    )
    incoming_directory: Directory = setting(
        Path("/models/incoming"),
        "Drop zone that is watched for new model folders.",
        why="Beside the repository, so that taking a drop in is a rename.",
    )
    rejected_directory: Directory | None = setting(
        None,
        "Where refused drops are kept with their reason.",
        why="Null: `rejected` beside the drop zone, on the same file system.",
    )
    state_directory: Directory | None = setting(
        None,
        "Store, logs and Prefect database.",
        why="Null: `state` beside the repository, so that one volume holds everything.",
    )
    node: Annotated[Text, Note(default="the host name")] = setting(
        what="Name of this machine in device ids.",
        why="The host name tells machines apart that share a store.",
        factory=socket.gethostname,
    )
    cpu_memory_gib: Annotated[float, Strict(), Field(gt=0), Note(unit="GiB")] | None = setting(
        None,
        "RAM budget of the CPU device on a host without GPUs.",
        why="Null: three quarters of the machine's memory, the rest is the system's.",
    )
    policies: Policies = Field(default_factory=Policies)
    metrics: Metrics = Field(default_factory=Metrics)

    @property
    def rejected(self) -> Path:
        """Where refused drops go."""
        return self.rejected_directory or self.incoming_directory.parent / "rejected"

    @property
    def state(self) -> Path:
        """Where Modelium keeps its own files."""
        return self.state_directory or self.model_repository.parent / "state"


class Ingest(Section):
    """When a drop counts as complete, and how it is taken in."""

    quiet_period_seconds: Seconds = setting(
        5.0,
        "A drop is complete when nothing in it changed for this long.",
        why="5 s bridges the pauses of a network copy.",
    )
    rescan_interval_seconds: Interval = setting(
        30.0,
        "How often the drop zone is listed in full.",
        why="For file systems that send no events (NFS); 30 s is soon enough for a drop.",
    )
    webhook_secret: Secret | None = setting(
        None,
        "When set, POST /hooks/ingest needs an HMAC-SHA256 of the body in X-Modelium-Signature.",
        why="Null: on loopback the gateway's own token, or none, is enough.",
    )


class Gateway(Section):
    """The HTTP face."""

    host: Text = setting(
        "127.0.0.1",
        "Address that the gateway listens on. Anything but loopback needs `token`.",
        why="Loopback: nothing is open to the network until the operator opens it.",
    )
    port: Port = setting(
        8000, "TCP port of the gateway.", why="Where vLLM's own server would be: clients stay."
    )
    token: Token | None = setting(
        None,
        "Bearer token that clients must send. Required off loopback.",
        why="Null: on loopback the machine's own users are trusted.",
    )
    aliases: dict[AliasName, AliasTarget] = setting(
        what="Name that clients may use → model, or NAME:VERSION.",
        why="None: clients use the models' own names.",
        factory=dict,
    )
    max_wait_seconds: Seconds = setting(
        300.0,
        "How long a request waits for its model to be loaded before it gets a 503.",
        why="Five minutes cover the load of most models; many clients give up about then.",
    )
    max_waiting_per_model: Annotated[Count, Note(unit="requests")] = setting(
        256,
        "Requests that may wait for one model; more get a 503 at once.",
        why="256 bounds the memory that waiting requests hold.",
    )
    max_waiting: Annotated[Count, Note(unit="requests")] = setting(
        4096,
        "Requests that may wait for all models together; more get a 503 at once.",
        why="Each holds a connection and its body; 4096 are within the usual limit of files.",
    )
    stream_comment_seconds: Interval | None = setting(
        None,
        "How often a streaming request that waits for its model is sent a comment, which "
        "clients skip and which keeps proxies from giving up on it.",
        why="Null: the first comment is a 200, after which errors are events, not statuses.",
    )
    drain_grace_seconds: Seconds = setting(
        30.0,
        "How long an unload waits for requests in flight.",
        why="30 s lets most answers end; a stuck client does not hold the memory for ever.",
    )


class Prefect(Section):
    """Where run history lives."""

    enabled: Switch = setting(
        True, "False: stages run directly, without history.", why="On: people look there."
    )
    api_url: HttpUrl | None = setting(
        None,
        "API of an existing Prefect server.",
        why="Null: PREFECT_API_URL where that is set, else an embedded server.",
    )
    host: Text = setting(
        "127.0.0.1",
        "Address of the embedded server.",
        why="Loopback: that server has no access control.",
    )
    port: Port = setting(4200, "TCP port of the embedded server.", why="Prefect's usual port.")
    retention_days: Days = setting(
        7.0,
        "How long finished runs are kept.",
        why="A week; two sweeps a minute add about 110 MB a day.",
    )
    work_pool: Text = setting(
        "modelium", "Work pool of Modelium's deployments.", why="Tells them from other projects'."
    )


class StoreSection(Section):
    """Modelium's own database."""

    url: Secret | None = setting(
        None,
        "SQLAlchemy URL of the database. Treated as a secret, as it may hold a password.",
        why="Null: SQLite in the state directory; PostgreSQL where several machines share it.",
    )


class BrainSection(Section):
    """The LLM agent. Without a base URL the rules run alone."""

    base_url: HttpUrl | None = setting(
        None,
        "OpenAI-compatible endpoint of the agent's LLM.",
        why="Null: the rules run alone, which is a supported mode.",
    )
    model: Text | None = setting(
        None, "Model name at that endpoint.", why="Null: there is no LLM to guess."
    )
    api_key_env: Text = setting(
        "MODELIUM_BRAIN_API_KEY",
        "Name of the environment variable that holds the endpoint's key.",
        why="A variable, so that the key is in no file.",
    )
    time_budget_seconds: Interval = setting(
        30.0,
        "Time after which the rules answer instead.",
        why="30 s: no request waits for it, yet an ingest should not hang on it.",
    )
    max_steps: Annotated[int, Strict(), Field(ge=1), Note(unit="tool rounds")] = setting(
        6,
        "Rounds of tool calls after which the rules answer instead.",
        why="There are seven tools, and several may be called in one round.",
    )
    max_tokens: Annotated[int, Strict(), Field(ge=1), Note(unit="tokens")] = setting(
        20_000,
        "Prompt and answer tokens of one decision after which the rules answer instead.",
        why="20,000 is several times what a decision needs, and a bound on what it costs.",
    )
    review_interval_seconds: Interval = setting(
        300.0,
        "Time between two reviews of the whole fleet by the LLM.",
        why="Five minutes: what idles, queues and is due soon changes no faster; the control "
        "loop's own rules act every few seconds in any case.",
    )


class ModelEntry(Section):
    """What the operator says of one model; its own files have no say in these."""

    team: Text | None = setting(None, "Owning team.", why="Null: nobody's in particular.")
    priority: Priority | None = setting(
        None, "Priority class.", why="Null: by team, see `high_priority_teams`."
    )
    priority_ceiling: Priority = setting(
        Priority.HIGH, "Highest class that a plan may give it.", why="High: no ceiling."
    )
    pinned: Switch = setting(False, "Never evict it.", why="Off: pinned models waste memory.")
    approvals: frozenset[Literal["remote-code", "pickle"]] = setting(
        frozenset(),
        "What is allowed for this model alone.",
        why="None: a model folder is not trusted until somebody looked at it.",
    )
