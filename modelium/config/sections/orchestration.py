"""The ``orchestration`` section: directories, policies and metrics."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, Strict

from modelium.config.fields import (
    Count,
    Days,
    Directory,
    Interval,
    ModelName,
    NodeName,
    Port,
    PositiveCount,
    Seconds,
    Secret,
    Section,
    Share,
    Switch,
    Text,
    note,
    setting,
)
from modelium.config.places import SHARED_OR_OWN, default_root


class Policies(Section):
    """When models are unloaded, which ones stay loaded, and which are evicted first."""

    auto_unload_after_seconds: Seconds = setting(
        3600.0,
        "Idle time after which a model may be unloaded.",
        why="One hour: a reload takes about a minute, so a longer time rarely pays off.",
    )
    min_qps_threshold: Annotated[
        float, Strict(), Field(ge=0), note(unit="requests per second over the last hour")
    ] = setting(
        0.1,
        "A model with at least this request rate is not unloaded for being idle.",
        why="0.1 is one request every ten seconds; a pause in such traffic does not mean that "
        "it has ended.",
    )
    pending_requests_threshold: Annotated[Count, note(unit="requests")] = setting(
        0,
        "A model is loaded on demand when more requests than this are waiting for it.",
        why="0: the first request triggers the load, because its client is waiting.",
    )
    always_loaded: frozenset[ModelName] = setting(
        frozenset(),
        "Models that are loaded at startup and never evicted.",
        why="None: only the operator can know which models must stay in memory.",
    )
    max_gpu_memory_utilization: Share = setting(
        0.9,
        "Fraction of each device's memory that models may use.",
        why="0.9 leaves room for drivers, other processes and short peaks.",
    )
    kv_cache_share: Annotated[float, Strict(), Field(ge=0, le=1), note(unit="fraction")] = setting(
        0.5,
        "Fraction of a GPU's free memory that a vLLM model's KV cache takes beyond its need, where "
        "no other registered model needs it.",
        why="0.5: a model on an idle GPU serves many requests at once, and the next one still has "
        "room. What is taken returns when the model is unloaded.",
    )
    enable_model_swapping: Switch = setting(
        True,
        "Whether an idle model may be evicted to make room for another one.",
        why="True: otherwise the models that were loaded first occupy the devices indefinitely.",
    )
    high_priority_teams: frozenset[Text] = setting(
        frozenset(),
        "Teams whose models have priority `medium` instead of `low`, unless `models` sets one.",
        why="None: all teams are equal until the operator ranks them.",
    )
    min_residency_seconds: Seconds = setting(
        60.0,
        "Minimum time between a model becoming ready and its eviction in favor of another one.",
        why="One minute, about the time of a load; without it two models could swap endlessly.",
    )
    reload_cooldown_seconds: Seconds = setting(
        30.0,
        "Time during which the planner does not reload a model that it evicted for space. "
        "Requests and operators can still load it.",
        why="30 s: until then the traffic from before the eviction still counts as recent.",
    )
    healthy_after_seconds: Seconds = setting(
        600.0,
        "A model that is lost sooner than this after it became ready counts as a failed load; one "
        "that stays ready for as long starts afresh.",
        why="Ten minutes: an engine that a request or a slow leak kills does not last so long "
        "twice.",
    )
    quarantine_after_failures: Annotated[PositiveCount, note(unit="failures")] = setting(
        5,
        "A model that failed this often in a row is quarantined: it is loaded again only after "
        "`modelium retry`, a new version, or a change of its configuration.",
        why="5: the pauses before are 10, 20, 40 and 80 s; what passes by itself has passed then.",
    )
    attempts_per_runtime: Annotated[PositiveCount, note(unit="failures")] = setting(
        2,
        "After this many failures that are a runtime's fault, another runtime that can serve the "
        "model is tried.",
        why="2: one failure may have been a coincidence.",
    )
    avoid_runtime_after_failures: Annotated[Count, note(unit="failures")] = setting(
        3,
        "After this many loads in a row of one class of models (format, architecture and "
        "quantization) that failed by a runtime's fault, models of this class are loaded in "
        "another runtime that can serve them. At least two models of their own team, or models of "
        "two teams, must be among those that failed. 0: never.",
        why="3: two models with the same fault, one of them twice, are hardly a coincidence.",
    )
    avoid_runtime_seconds: Seconds = setting(
        86_400.0,
        "Time after the last of these failures during which the runtime is avoided. A successful "
        "load, a changed section of the runtime, another engine version, or `modelium retry` of "
        "the models that failed ends it sooner.",
        why="A day: then the runtime is tried again.",
    )
    placement: Literal["pack", "spread"] = setting(
        "pack",
        "Over several machines: whether models are placed on as few as can hold them (`pack`), "
        "or on the ones with the most free memory (`spread`).",
        why="Pack: a machine that stays empty has room for the next large model.",
    )
    allow_remote_code: Switch = setting(
        False,
        "Whether Python code in model folders may run.",
        why="False: otherwise anyone who can drop a folder can run code. `models` can allow it "
        "for single models.",
    )
    allow_pickle: Switch = setting(
        False,
        "Whether weight files in pickle format are accepted.",
        why="False: opening a pickle runs code. `models` can allow it for single models.",
    )


class Metrics(Section):
    """Metrics, traffic history and the request log."""

    prometheus_enabled: Switch = setting(
        True,
        "Whether the Prometheus exporter listens on its own port.",
        why="True: on loopback, scraping that port needs no token; off loopback it needs "
        "`gateway.token`. The gateway always serves /metrics.",
    )
    prometheus_port: Port = setting(
        9090,
        "TCP port of the exporter.",
        why="Prometheus itself also defaults to 9090: change one of them if both run on the "
        "same host.",
    )
    collection_interval_seconds: Interval = setting(
        10.0,
        "How often the control loop reads devices, runtimes and traffic.",
        why="10 s is short compared with a load, which takes about a minute.",
    )
    history_retention_days: Days = setting(
        30.0,
        "How long the hourly traffic of each model is kept.",
        why="A month shows weekly patterns; it costs one row per hour and model with traffic.",
    )
    request_log: Switch = setting(
        True,
        "Whether time, model, token counts and latency of each request are recorded. Request "
        "and response content never is.",
        why="True: `modelium replay --from-store` uses it to compare policies on real traffic.",
    )
    request_log_retention_days: Days = setting(
        7.0,
        "How long entries of the request log are kept, up to the latest million (70 MB).",
        why="A week contains the pattern of every weekday once.",
    )


class Orchestration(Section):
    """Which directories are managed, and how."""

    enabled: Switch = setting(
        True,
        "If false, Modelium observes and serves running models but loads and unloads none.",
        why="True: managing models is the purpose of Modelium.",
    )
    model_repository: Annotated[Directory, note(default=SHARED_OR_OWN.format("repository"))] = (
        setting(
            what="Model repository: the directory that all runtimes read models from.",
            why="A single directory can be mounted under the same path by every runtime; a user "
            "without one needs no rights.",
            factory=lambda: default_root() / "repository",
        )
    )
    incoming_directory: Annotated[Directory, note(default=SHARED_OR_OWN.format("incoming"))] = (
        setting(
            what="Drop zone: the directory that is watched for new model folders.",
            why="It is next to the repository, so that ingesting a drop is a rename.",
            factory=lambda: default_root() / "incoming",
        )
    )
    rejected_directory: Directory | None = setting(
        None,
        "Directory that rejected drops are moved to, each with the reason.",
        why="Null: `rejected` next to the drop zone, on the same file system.",
    )
    state_directory: Directory | None = setting(
        None,
        "Directory of the store, the logs and the Prefect database.",
        why="Null: `state` next to the repository, so that a single volume holds everything.",
    )
    node: Annotated[NodeName, note(default="the host name")] = setting(
        what="Name of this machine in device ids.",
        why="The host name distinguishes machines that share a store.",
        factory=socket.gethostname,
    )
    node_labels: dict[Text, Text] = setting(
        {},
        "Labels of this machine, which `models.NAME.nodes` selects machines by.",
        why="Empty: models are placed by memory, runtimes and files alone.",
    )
    join_token: Secret | None = setting(
        None,
        "Token of `modelium nodes token`, with which this machine joins the machines of a shared "
        "store. Needed once; the variable MODELIUM_JOIN_TOKEN sets it, too.",
        why="Null: the first machine of a store, and one that has joined, need none.",
    )
    cpu_memory_gib: Annotated[float, Strict(), Field(gt=0), note(unit="GiB")] | None = setting(
        None,
        "Memory budget of the CPU device.",
        why="Null: three quarters of the machine's memory, so that the rest is left to the "
        "system; beside GPUs one quarter, because engines on GPUs need memory of the host.",
    )
    allowed_link_local: frozenset[Text] = setting(
        frozenset(),
        "Hosts that the service may connect to although their addresses are link-local or a "
        "cloud's metadata service.",
        why="None: a server that is named by such an address could be where a cloud gives out the "
        "machine's credentials.",
    )
    policies: Policies = Field(default_factory=Policies)
    metrics: Metrics = Field(default_factory=Metrics)

    @property
    def rejected(self) -> Path:
        """Directory of rejected drops, the default applied."""
        return self.rejected_directory or self.incoming_directory.parent / "rejected"

    @property
    def state(self) -> Path:
        """Directory of Modelium's own files, the default applied."""
        return self.state_directory or self.model_repository.parent / "state"
