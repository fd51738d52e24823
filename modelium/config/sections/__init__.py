"""The sections of the configuration file, one module each (no I/O here)."""

from __future__ import annotations

from pydantic import Field

from modelium.config.fields import ModelName, Section, TeamName, setting
from modelium.config.sections.brain import BrainSection
from modelium.config.sections.devices import Devices
from modelium.config.sections.gateway import Gateway
from modelium.config.sections.ingest import Ingest
from modelium.config.sections.logging import Logging
from modelium.config.sections.models import ModelEntry
from modelium.config.sections.orchestration import Orchestration
from modelium.config.sections.prefect import Prefect
from modelium.config.sections.repository import RepositorySection
from modelium.config.sections.runtimes import LlamaCpp, RayServe, Triton, Vllm
from modelium.config.sections.sandbox import SandboxSection
from modelium.config.sections.store import StoreSection
from modelium.config.sections.teams import TeamEntry


class Sections(Section):
    """All sections of the file, each valid by itself."""

    orchestration: Orchestration = Field(default_factory=Orchestration)
    devices: Devices = Field(default_factory=Devices)
    ingest: Ingest = Field(default_factory=Ingest)
    repository: RepositorySection = Field(default_factory=RepositorySection)
    triton: Triton = Field(default_factory=Triton)
    vllm: Vllm = Field(default_factory=Vllm)
    ray_serve: RayServe = Field(default_factory=RayServe)
    llama_cpp: LlamaCpp = Field(default_factory=LlamaCpp)
    sandbox: SandboxSection = Field(default_factory=SandboxSection)
    gateway: Gateway = Field(default_factory=Gateway)
    prefect: Prefect = Field(default_factory=Prefect)
    store: StoreSection = Field(default_factory=StoreSection)
    brain: BrainSection = Field(default_factory=BrainSection)
    logging: Logging = Field(default_factory=Logging)
    teams: dict[TeamName, TeamEntry] = setting(
        {},
        "Teams by name. `NAME` in the drop zone is then the folder for the drops of team `NAME`.",
        why="Empty: one drop zone for all, without quotas; the queue makes no difference between "
        "teams of one priority class.",
    )
    models: dict[ModelName, ModelEntry] = setting(
        {},
        "Settings of single models, by model name.",
        why="Empty: dropping a folder is enough to register a model.",
    )
