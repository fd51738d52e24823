"""The whole configuration file as one pydantic model.

Every field states its unit, its default and the reason for the default. Unknown keys are
errors. ``MODELIUM_SECTION__FIELD`` environment variables override the file
(`modelium.config.loading`).
"""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from modelium.config.conflicts import Conflicts, conflicts
from modelium.config.fields import ModelName, Section, setting
from modelium.config.hosts import is_loopback
from modelium.config.runtimes import LlamaCpp, RayServe, RuntimeSection, Triton, Vllm
from modelium.config.sections import (
    BrainSection,
    Gateway,
    Ingest,
    ModelEntry,
    Orchestration,
    Prefect,
    StoreSection,
)
from modelium.models import RuntimeName
from modelium.policy import Policy, RuntimeRules


class Config(Section):
    """The whole file."""

    orchestration: Orchestration = Field(default_factory=Orchestration)
    ingest: Ingest = Field(default_factory=Ingest)
    triton: Triton = Field(default_factory=Triton)
    vllm: Vllm = Field(default_factory=Vllm)
    ray_serve: RayServe = Field(default_factory=RayServe)
    llama_cpp: LlamaCpp = Field(default_factory=LlamaCpp)
    gateway: Gateway = Field(default_factory=Gateway)
    prefect: Prefect = Field(default_factory=Prefect)
    store: StoreSection = Field(default_factory=StoreSection)
    brain: BrainSection = Field(default_factory=BrainSection)
    models: dict[ModelName, ModelEntry] = setting(
        what="Model name → what the operator says of it.",
        why="Empty: models are known by being dropped.",
        factory=dict,
    )

    @model_validator(mode="after")
    def _agrees(self) -> Config:
        problems = list(conflicts(self))
        if problems:
            raise Conflicts(problems)
        return self

    @property
    def brain_served_here(self) -> bool:
        """Whether the brain's LLM is a model behind this Modelium's own gateway."""
        if self.brain.base_url is None:
            return False
        parts = urlsplit(self.brain.base_url)
        host = parts.hostname or ""
        here = {self.gateway.host, self.orchestration.node, socket.gethostname()}
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return port == self.gateway.port and (is_loopback(host) or host in here)

    def store_url(self) -> str:
        """The store's URL: as configured, or SQLite in the state directory."""
        if self.store.url:
            return self.store.url.get_secret_value()
        return f"sqlite:///{self.orchestration.state / 'modelium.db'}"

    def policy(self) -> Policy:
        """The planner's view of the configuration."""
        p = self.orchestration.policies
        sections: dict[RuntimeName, RuntimeSection] = {
            RuntimeName.VLLM: self.vllm,
            RuntimeName.TRITON: self.triton,
            RuntimeName.RAY_SERVE: self.ray_serve,
            RuntimeName.LLAMA_CPP: self.llama_cpp,
        }
        return Policy(
            enabled=self.orchestration.enabled,
            auto_unload_after_s=p.auto_unload_after_seconds,
            min_qps_threshold=p.min_qps_threshold,
            pending_requests_threshold=p.pending_requests_threshold,
            always_loaded=p.always_loaded,
            max_gpu_memory_utilization=p.max_gpu_memory_utilization,
            enable_model_swapping=p.enable_model_swapping,
            high_priority_teams=p.high_priority_teams,
            min_residency_s=p.min_residency_seconds,
            reload_cooldown_s=p.reload_cooldown_seconds,
            allow_remote_code=p.allow_remote_code,
            allow_pickle=p.allow_pickle,
            runtimes={
                name: RuntimeRules(
                    enabled=section.enabled,
                    default_settings=section.default_settings,
                    allowed_extra=section.allowed_extra,
                )
                for name, section in sections.items()
            },
        )
