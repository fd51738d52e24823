"""One running engine with the model that it serves (no I/O here)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from modelium.models import LoadSettings, RuntimeName, Upstream
from modelium.models.base import base_name
from modelium.models.runtimes import RUNTIMES
from modelium.ports import Loaded, Running
from runtimes.loading.device_locks import CPU_ID_SUFFIX
from runtimes.process.supervisor import EngineProcess

State = Literal["loading", "ready", "sleeping", "unhealthy"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineInstance:
    """The process of one model, its address and its handle."""

    process: EngineProcess
    upstream: Upstream
    """Of rank 0; nothing listens at that of another part."""
    handle: dict[str, Any]
    """Settings and identity as JSON, from which `restore` builds the instance again."""

    @classmethod
    def restore(
        cls, runtime: RuntimeName, process: EngineProcess, handle: Mapping[str, Any]
    ) -> EngineInstance:
        """Build the instance that ``handle`` describes."""
        upstream = Upstream(
            host=str(handle["host"]),
            port=int(handle["port"]),
            served_name=base_name(process.model),
            apis=RUNTIMES[runtime].apis,
            api_key=handle.get("api_key"),
            user=os.getuid(),
        )
        return cls(process=process, upstream=upstream, handle=dict(handle))

    def loaded(self) -> Loaded:
        """Return it as the outcome of a load."""
        settings = None
        if self.handle.get("reduced"):
            settings = LoadSettings.model_validate(self.handle.get("settings", {}))
        return Loaded(upstream=self._answering, handle=self.handle, settings=settings)

    def running(self, state: State, pids: tuple[int, ...], detail: str) -> Running:
        """Return it as what `discover` finds: with its processes, and why it is in this state."""
        return Running(
            model=self.model,
            state=state,
            upstream=self._answering,
            handle=self.handle,
            pids=pids,
            detail=detail,
            own=True,
        )

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.process.model

    @property
    def rank(self) -> int:
        """Its place among the parts of a model over several nodes; 0: the one that answers."""
        return int(self.handle.get("rank", 0))

    @property
    def meeting(self) -> tuple[str, int] | None:
        """Address and port where the parts of its model meet; ``None``: it has one part."""
        place = self.handle.get("meeting")
        return (str(place[0]), int(place[1])) if place else None

    @property
    def _answering(self) -> Upstream | None:
        return None if self.rank else self.upstream

    @property
    def devices(self) -> tuple[str, ...]:
        """Ids of the devices that it was placed on."""
        return tuple(self.handle.get("devices", ()))

    @property
    def gpus(self) -> tuple[str, ...]:
        """Ids of those devices that are GPUs."""
        return tuple(device for device in self.devices if not device.endswith(CPU_ID_SUFFIX))
