"""What is recorded of a Ray cluster of Modelium's own, and which processes are its."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from runtimes.process import proc

MARK = "MODELIUM_RAY_CLUSTER"
"""Variable in the environment of all processes of a cluster; its value is the record's mark."""


class ClusterRecord(BaseModel):
    """What is stored about a cluster, so that a restarted Modelium can adopt it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    mark: str
    gcs_port: int
    proxy_host: str
    proxy_port: int
    ray_version: str
    python: str
    temp: str
    processes: dict[int, int] = {}
    """Pid → start time (clock ticks since boot) of the processes that the cluster depends on."""

    @property
    def address(self) -> str:
        """``host:port`` of the GCS."""
        return f"127.0.0.1:{self.gcs_port}"


def marked(mark: str) -> list[int]:
    """Return the live processes that have ``mark`` in their environment, oldest first."""
    processes = sorted(proc.snapshot().values(), key=lambda process: process.started)
    return [p.pid for p in processes if p.alive and proc.has_variable(p.pid, MARK, mark)]
