"""Checks of an installation and its configuration."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from modelium.cli.device_checks import devices
from modelium.cli.findings import Finding
from modelium.cli.shadows import shadows
from modelium.config import Config
from modelium.config.loading import load_serving
from modelium.errors import ConfigError
from modelium.models import GIB

PROBE_S = 2.0
"""Timeout of one TCP connection."""

SETTINGS, FRAME_HEAD = 4, 9
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0])
"""How an HTTP/2 client begins (RFC 9113, 3.4): the preface and an empty SETTINGS frame."""

MIN_FREE_BYTES = 5 * GIB
"""Less free disk space is reported, as one model may need more."""


def examine(config: Config) -> list[Finding]:
    """Check packages, directories, devices, runtimes and the LLM; starts nothing."""
    return [
        *_packages(),
        *_directories(config),
        *devices(config),
        *_runtimes(config),
        *_brain(config),
    ]


def _packages() -> Iterator[Finding]:
    """Check that another distribution does not shadow our top-level packages."""
    found = "; ".join(shadows())
    yield Finding(what="packages", ok=not found, detail=found or "no other distribution in the way")


def configuration(path: Path | None, environ: Mapping[str, str]) -> Finding:
    """Check that the configuration enables a runtime; invalid fields are errors before."""
    try:
        file = load_serving(path, environ).file
    except ConfigError as exc:
        return Finding(what="configuration", ok=False, detail=str(exc))
    return Finding(what="configuration", ok=True, detail=str(file or "from the environment"))


def _directories(config: Config) -> Iterator[Finding]:
    orchestration = config.orchestration
    for what, directory in (
        ("model repository", orchestration.model_repository),
        ("drop zone", orchestration.incoming_directory),
        ("state directory", orchestration.state),
    ):
        place = directory
        while not place.exists():
            place = place.parent
        writable = os.access(place, os.W_OK)
        free = shutil.disk_usage(place).free
        detail = f"{directory} ({free / GIB:.0f} GiB free)"
        if not writable:
            detail = f"{directory} is not writable by this user"
        elif free < MIN_FREE_BYTES:
            detail += ": may be too little for a model"
        yield Finding(what=what, ok=writable, detail=detail)


def _runtimes(config: Config) -> Iterator[Finding]:
    if config.ray_serve.enabled and config.ray_serve.address:
        yield _reach("Ray cluster", config.ray_serve.address)
    elif config.ray_serve.enabled:
        yield _ray_endpoint(config.ray_serve.endpoint)
    if config.ray_serve.enabled and config.ray_serve.python:
        yield _command("Python interpreter of Ray Serve replicas", config.ray_serve.python)
    if config.triton.enabled and config.triton.command:
        yield _command("Triton", config.triton.command[0])
    elif config.triton.enabled:
        parts = urlsplit(config.triton.endpoint)
        yield _reach("Triton", f"{parts.hostname}:{parts.port or 80}")
        yield _reach_grpc("Triton (gRPC)", config.triton.grpc_address)
    if config.vllm.enabled:
        yield _command("vLLM", config.vllm.executable)
    if config.llama_cpp.enabled:
        yield _command("llama.cpp", config.llama_cpp.executable)


def _brain(config: Config) -> Iterator[Finding]:
    wanted, what = config.brain, "LLM"
    if wanted.base_url is None or config.brain_served_here:
        return
    if wanted.model is None:
        detail = "brain.model is not set, so the rules decide alone; name a model of that API"
        yield Finding(what=what, ok=False, detail=detail)
        return
    parts = urlsplit(wanted.base_url)
    yield _reach(what, f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}")


def _ray_endpoint(endpoint: str) -> Finding:
    """Check what is at Serve's address: a running Serve is used, else Modelium starts its own."""
    what, parts = "Ray Serve", urlsplit(endpoint)
    port = parts.port or 0
    if not port or not _reach(what, f"{parts.hostname}:{port}").ok:
        return Finding(what=what, ok=True, detail="no Serve runs yet: Modelium starts one")
    try:
        found = httpx.get(f"{endpoint.rstrip('/')}/-/healthz", timeout=PROBE_S, trust_env=False)
        serve = found.text.strip() == "success"
    except httpx.HTTPError:
        serve = False
    if serve:
        return Finding(what=what, ok=True, detail=f"a Serve runs at {endpoint}, and is used")
    detail = f"another program listens at {endpoint}: stop it, or set another port (0: any)"
    return Finding(what=what, ok=False, detail=detail)


def _command(what: str, command: str) -> Finding:
    found = shutil.which(command)
    return Finding(
        what=what, ok=found is not None, detail=found or f"command {command!r} not found"
    )


def _reach_grpc(what: str, address: str) -> Finding:
    """Check that a gRPC server answers; an HTTP/1 server is probably another port of Triton.

    gRPC runs on HTTP/2, whose servers begin with a SETTINGS frame (RFC 9113, 3.4).
    """
    host, _, port = address.rpartition(":")
    setting = "set triton.grpc_endpoint to Triton's --grpc-port (8001 by default)"
    try:
        with socket.create_connection((host, int(port)), timeout=PROBE_S) as connection:
            connection.sendall(HTTP2_PREFACE)
            head = connection.recv(FRAME_HEAD)
    except (OSError, ValueError) as exc:
        detail = f"no answer at {address}: {exc}; {setting}"
        return Finding(what=what, ok=False, detail=detail)
    if len(head) < FRAME_HEAD or head[3] != SETTINGS:
        detail = f"the server at {address} does not speak gRPC; {setting}"
        return Finding(what=what, ok=False, detail=detail)
    return Finding(what=what, ok=True, detail=f"answers at {address}")


def _reach(what: str, address: str) -> Finding:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=PROBE_S):
            return Finding(what=what, ok=True, detail=f"answers at {address}")
    except (OSError, ValueError) as exc:
        return Finding(what=what, ok=False, detail=f"no answer at {address}: {exc}")
