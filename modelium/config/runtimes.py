"""The configuration of the runtimes, one section each."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from modelium.config.fields import (
    Directory,
    HostPort,
    HttpUrl,
    Note,
    Port,
    Section,
    Switch,
    Text,
    setting,
)

Settings = dict[str, str | int | float | bool]
Environment = Annotated[dict[str, str], Note(hidden=True)]


class RuntimeSection(Section):
    """What all runtimes have."""

    enabled: Switch = setting(
        False, "Whether plans may use it.", why="Off: it has to be installed first."
    )
    default_settings: Settings = setting(
        what="Settings of a load that the plan does not set, e.g. dtype, max_model_len.",
        why="Empty: the model's own configuration and the runtime's defaults decide.",
        factory=dict,
    )
    allowed_extra: frozenset[Text] = setting(
        frozenset(),
        "Further settings or engine arguments that plans may use.",
        why="None: some run code or open files, so somebody has to look at each.",
    )


class Triton(RuntimeSection):
    """A Triton Inference Server with explicit model control."""

    model_repository: Directory | None = setting(
        None,
        "The repository as Triton sees it.",
        why="Null: a `triton` folder in the state directory, laid out in Triton's own form.",
    )
    endpoint: HttpUrl = setting(
        "http://localhost:8003",
        "Triton's HTTP address; requests go there.",
        why="8003 keeps Triton's usual 8000 free for the gateway.",
    )
    grpc_endpoint: HostPort | None = setting(
        None,
        "Triton's gRPC address for control calls.",
        why="Null: the HTTP host, HTTP port + 1, as Triton numbers them.",
    )
    command: tuple[str, ...] | None = setting(
        None,
        "Command line (a list of words) of a Triton that Modelium starts itself.",
        why="Null: use the one at `endpoint`; most sites run Triton on their own.",
    )

    @property
    def grpc_address(self) -> str:
        """``host:port`` of control calls, the default applied."""
        if self.grpc_endpoint:
            return self.grpc_endpoint
        parts = urlsplit(self.endpoint)
        return f"{parts.hostname}:{(parts.port or 80) + 1}"


class Vllm(RuntimeSection):
    """vLLM: one process per model."""

    executable: Text = setting(
        "vllm",
        "The vllm command of vLLM's own environment.",
        why="`vllm` on PATH; it needs an environment of its own, as its pins clash with others'.",
    )
    base_port: Port = setting(
        8100,
        "First port of the instances, which count up from it: 8100, 8101 and so on.",
        why="8100 keeps clear of the gateway, Ray Serve and Triton.",
    )
    host: Text = setting(
        "127.0.0.1",
        "Address that instances listen on.",
        why="Loopback: clients come through the gateway, engines have no access control.",
    )
    environment: Environment = setting(
        what="Environment variables added to each instance.",
        why="Empty: instances get a clean environment.",
        factory=dict,
    )


class RayServe(RuntimeSection):
    """Ray Serve: one application per model. A local cluster costs 1 GB of RAM."""

    endpoint: HttpUrl = setting(
        "http://localhost:8002",
        "Serve's HTTP proxy; requests go there.",
        why="8002 keeps Serve's usual 8000 free for the gateway.",
    )
    address: HostPort | None = setting(
        None,
        "Address (of the GCS) of an existing Ray cluster.",
        why="Null: Modelium starts a local one.",
    )
    python: Text | None = setting(
        None,
        "Interpreter that replicas run under, for models that need torch.",
        why="Null: Modelium's own, which serves ONNX and stays small without torch.",
    )


class LlamaCpp(RuntimeSection):
    """llama.cpp: one server process per GGUF model."""

    executable: Text = setting(
        "llama-server", "The llama-server command.", why="The name that llama.cpp installs."
    )
    base_port: Port = setting(
        8200,
        "First port of the instances, which count up from it.",
        why="A hundred ports above vLLM's.",
    )
    host: Text = setting(
        "127.0.0.1",
        "Address that instances listen on.",
        why="Loopback: clients come through the gateway, engines have no access control.",
    )
