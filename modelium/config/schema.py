"""The whole configuration file as one pydantic model, and what is derived from it (no I/O here).

`modelium.config.sections` defines the fields, `modelium.config.loading` reads the file and the
environment variables.
"""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import model_validator

from modelium.config.conflicts import Conflicts, conflicts
from modelium.config.hosts import is_loopback
from modelium.config.sections import Sections
from modelium.config.sections.brain import Authority
from modelium.config.sections.runtimes import RuntimeSection
from modelium.models import GIB, DepartureKind, RuntimeName
from modelium.policy import Policy, RuntimeRules, TeamRules


class Config(Sections):
    """The whole file; its sections do not conflict."""

    @model_validator(mode="after")
    def _no_conflicts(self) -> Config:
        problems = list(conflicts(self))
        if problems:
            raise Conflicts(problems)
        return self

    @property
    def brain_served_here(self) -> bool:
        """Whether the brain's LLM is served by this Modelium's own gateway."""
        if self.brain.base_url is None:
            return False
        parts = urlsplit(self.brain.base_url)
        host = parts.hostname or ""
        here = {self.gateway.host, self.orchestration.node, socket.gethostname()}
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return port == self.gateway.port and (is_loopback(host) or host in here)

    def store_url(self) -> str:
        """Return the store's URL, the default applied: SQLite in the state directory."""
        if self.store.url:
            return self.store.url.get_secret_value()
        return f"sqlite:///{self.orchestration.state / 'modelium.db'}"

    def shares_files(self) -> bool:
        """Whether services on other machines manage the same folders, with the same store."""
        return self.repository.shared and self.store_url().startswith("postgresql")

    def prefect_credentials(self) -> Path:
        """Return the file with ``USER:PASSWORD`` of the embedded Prefect server."""
        return self.orchestration.state / "prefect" / "credentials"

    def max_tokens(self) -> dict[str, int]:
        """Return model → bound of its answers, for the models that have one."""
        return {name: entry.max_tokens for name, entry in self.models.items() if entry.max_tokens}

    def departures(self) -> dict[DepartureKind, float]:
        """Return the kinds of departure that an LLM may make, each with its load-seconds per hour.

        Empty where no LLM is configured, or it only advises.
        """
        brain = self.brain
        decides = brain.authority is Authority.DECIDE and brain.base_url and brain.model
        return dict(brain.may) if decides else {}

    @property
    def runtime_sections(self) -> dict[RuntimeName, RuntimeSection]:
        """Runtime → its section."""
        return {
            RuntimeName.VLLM: self.vllm,
            RuntimeName.TRITON: self.triton,
            RuntimeName.RAY_SERVE: self.ray_serve,
            RuntimeName.LLAMA_CPP: self.llama_cpp,
        }

    def policy(self) -> Policy:
        """Return what the planner needs of the configuration."""
        p = self.orchestration.policies
        return Policy(
            enabled=self.orchestration.enabled,
            auto_unload_after_s=p.auto_unload_after_seconds,
            min_qps_threshold=p.min_qps_threshold,
            pending_requests_threshold=p.pending_requests_threshold,
            always_loaded=p.always_loaded,
            max_gpu_memory_utilization=p.max_gpu_memory_utilization,
            kv_cache_share=p.kv_cache_share,
            enable_model_swapping=p.enable_model_swapping,
            high_priority_teams=p.high_priority_teams,
            min_residency_s=p.min_residency_seconds,
            reload_cooldown_s=p.reload_cooldown_seconds,
            healthy_after_s=p.healthy_after_seconds,
            quarantine_after=p.quarantine_after_failures,
            attempts_per_runtime=p.attempts_per_runtime,
            avoid_runtime_after=p.avoid_runtime_after_failures,
            avoid_runtime_s=p.avoid_runtime_seconds,
            allow_remote_code=p.allow_remote_code,
            allow_pickle=p.allow_pickle,
            departures=self.departures(),
            time_zone=self.brain.time_zone,
            placement=p.placement,
            model_nodes={name: entry.nodes for name, entry in self.models.items() if entry.nodes},
            model_settings={
                name: entry.settings for name, entry in self.models.items() if entry.settings
            },
            teams={
                name: TeamRules(
                    memory_bytes=(
                        None
                        if entry.memory_quota_gib is None
                        else int(entry.memory_quota_gib * GIB)
                    ),
                    gpu_seconds_per_day=entry.gpu_seconds_per_day,
                    weight=entry.weight,
                )
                for name, entry in self.teams.items()
            },
            runtimes={
                name: RuntimeRules(
                    enabled=section.enabled,
                    default_settings=section.default_settings,
                    allowed_extra=section.allowed_extra,
                )
                for name, section in self.runtime_sections.items()
            },
        )
