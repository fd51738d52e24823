"""The sections of the runtimes: ``triton``, ``vllm``, ``ray_serve``, ``llama_cpp``."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from modelium.config.fields import (
    Directory,
    HostPort,
    HttpUrl,
    Interval,
    Port,
    Section,
    Switch,
    Text,
    note,
    setting,
)

Settings = dict[str, str | int | float | bool]
Environment = Annotated[dict[str, str], note(secret=True)]


class RuntimeSection(Section):
    """Fields that all runtimes have in common."""

    enabled: Switch = setting(
        False, "Whether plans may use this runtime.", why="False: it must be installed first."
    )
    default_settings: Settings = setting(
        {},
        "Load settings for which a plan sets no value, e.g. dtype or max_model_len.",
        why="Empty: the model's own configuration and the runtime's defaults apply.",
    )
    allowed_extra: frozenset[Text] = setting(
        frozenset(),
        "Additional settings or engine arguments that plans may use.",
        why="None: some of them run code or open files, so each needs a review.",
    )
    unhealthy_after_seconds: Interval = setting(
        30.0,
        "How long a server whose process lives may not answer before it is replaced; four times "
        "as long while it has requests in flight or computes. One whose process has exited is "
        "replaced at once.",
        why="30 s: pauses of some seconds are common on a busy machine, and a replacement loses "
        "the requests in flight and takes a minute.",
    )


class Triton(RuntimeSection):
    """A Triton Inference Server in explicit model control mode."""

    model_repository: Directory | None = setting(
        None,
        "Model repository of the Triton server; may be orchestration.model_repository.",
        why="Null: `triton` in the state directory, in Triton's own layout.",
    )
    endpoint: HttpUrl = setting(
        "http://localhost:8003",
        "Triton's HTTP address, which requests are forwarded to. A server that Modelium starts "
        "listens on Unix sockets instead unless `command` has an address.",
        why="8003: Triton's default port 8000 is used by the gateway.",
    )
    grpc_endpoint: HostPort | None = setting(
        None,
        "Triton's gRPC address, which models are loaded and unloaded through.",
        why="Null: the host of `endpoint` and its port + 1, like Triton's default ports.",
    )
    command: tuple[str, ...] | None = setting(
        None,
        "Command line, as a list of words, of a Triton server for Modelium to start.",
        why="Null: use the server at `endpoint`, as most sites run their own.",
    )

    @property
    def grpc_address(self) -> str:
        """``host:port`` of the gRPC API, the default applied."""
        if self.grpc_endpoint:
            return self.grpc_endpoint
        parts = urlsplit(self.endpoint)
        return f"{parts.hostname}:{(parts.port or 80) + 1}"


class Vllm(RuntimeSection):
    """vLLM: one process per model."""

    executable: Text = setting(
        "vllm",
        "The vllm command of vLLM's own virtual environment.",
        why="`vllm` on PATH; vLLM needs its own environment because its pinned dependencies "
        "conflict with others.",
    )
    base_port: Port = setting(
        8100,
        "First port of the instances, which use 8100, 8101 and so on.",
        why="8100 and above are not used by the gateway, Ray Serve or Triton.",
    )
    host: Text = setting(
        "127.0.0.1",
        "Address that instances listen on: of the loopback interface.",
        why="Clients connect through the gateway, which knows their keys and limits.",
    )
    allowed_media_domains: frozenset[Text] = setting(
        frozenset(),
        "Host names from which instances may fetch the images, sound and video that requests name "
        "by URL.",
        why="None: a request could make an engine fetch from services of the machine and its "
        "network. Contents in `data:` URLs always work.",
    )
    environment: Environment = setting(
        {},
        "Environment variables to add for each instance.",
        why="Empty: instances start with a clean environment.",
    )


class RayServe(RuntimeSection):
    """Ray Serve: one application per model. A local cluster uses 1 GB of RAM."""

    unhealthy_after_seconds: Interval = setting(
        30.0,
        "How long each of Ray Serve's own health checks of a replica may take; one that fails "
        "three in a row is replaced. One whose process has exited is replaced at once. Not for "
        "applications of your own, which set `health_check_timeout_s` themselves.",
        why="30 s: Serve's own default; a pause of a minute loses no requests.",
    )
    endpoint: HttpUrl = setting(
        "http://localhost:8002",
        "Address of Ray Serve's HTTP proxy, which requests are forwarded to. A Serve that "
        "already runs there is used.",
        why="8002: Serve's default port 8000 is used by the gateway.",
    )
    address: HostPort | None = setting(
        None,
        "GCS address of an existing Ray cluster.",
        why="Null: the cluster of the Serve at `endpoint`; Modelium starts one if none runs.",
    )
    python: Text | None = setting(
        None,
        "Python interpreter of the replicas, for models that need torch.",
        why="Null: Modelium's own interpreter, which serves ONNX models and has no torch.",
    )


class LlamaCpp(RuntimeSection):
    """llama.cpp: one server process per GGUF model."""

    executable: Text = setting(
        "llama-server", "The llama-server command.", why="llama.cpp installs it by that name."
    )
    base_port: Port = setting(
        8200,
        "First port of the instances, which use 8200, 8201 and so on.",
        why="8200 leaves vLLM a range of 100 ports.",
    )
    host: Text = setting(
        "127.0.0.1",
        "Address that instances listen on: of the loopback interface.",
        why="Clients connect through the gateway, which knows their keys and limits.",
    )
