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
from modelium.cli.listening import service
from modelium.cli.llm_check import llm
from modelium.cli.machine import packages, replica_problem
from modelium.cli.shadows import shadows
from modelium.config import Config
from modelium.config.folders import find_problem, folders, free_bytes, open_to_others
from modelium.config.loading import load_serving
from modelium.errors import ConfigError
from modelium.models import GIB

PROBE_S = 10.0
"""Timeout of one TCP connection."""

SETTINGS, FRAME_HEAD = 4, 9
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0])
"""How an HTTP/2 client begins (RFC 9113, 3.4): the preface and an empty SETTINGS frame."""

MIN_FREE_BYTES = 5 * GIB
"""Less free disk space is reported, as one model may need more."""


FOLDERS = {
    "orchestration.model_repository": "model repository",
    "orchestration.incoming_directory": "drop zone",
    "orchestration.rejected_directory": "rejected drops",
    "orchestration.state_directory": "state directory",
}


def examine(config: Config) -> list[Finding]:
    """Check packages, service, machines, folders, devices, runtimes, LLM; starts nothing."""
    from modelium.cli.node_checks import machines  # the database's libraries take a while

    return [
        *_packages(),
        *service(config),
        *machines(config),
        *_directories(config),
        *_privacy(config),
        *devices(config),
        *_runtimes(config),
        _sandbox(config),
        *llm(config),
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
    for field, folder in folders(config).items():
        problem = find_problem(field, folder)
        detail = problem
        if problem is None:
            free = free_bytes(folder)
            detail = f"{folder} ({free / GIB:.0f} GiB free)"
            if free < MIN_FREE_BYTES:
                detail += ": may be too little for a model"
        yield Finding(what=FOLDERS[field], ok=problem is None, detail=detail or "")


def _privacy(config: Config) -> Iterator[Finding]:
    """Check that other users of the machine reach none of the keys in the state directory."""
    problem = open_to_others(config)
    yield Finding(
        what="other users",
        ok=problem is None,
        detail=problem or f"cannot reach {config.orchestration.state}",
    )


def _runtimes(config: Config) -> Iterator[Finding]:
    if config.ray_serve.enabled and config.ray_serve.address:
        yield _reach("Ray cluster", config.ray_serve.address)
    elif config.ray_serve.enabled:
        yield _ray_endpoint(config.ray_serve.endpoint)
    if config.ray_serve.enabled and config.ray_serve.python:
        yield _replicas(config.ray_serve.python)
    if config.triton.enabled and config.triton.command:
        yield _command("Triton", config.triton.command[0])
    elif config.triton.enabled:
        yield _live("Triton", config.triton.endpoint)
        yield _reach_grpc("Triton (gRPC)", config.triton.grpc_address)
    if config.vllm.enabled:
        yield _vllm(config.vllm.executable)
    if config.llama_cpp.enabled:
        yield _command("llama.cpp", config.llama_cpp.executable)


def _sandbox(config: Config) -> Finding:
    """Say whether engines are confined, and if not, why."""
    from modelium.app.drivers import sandbox_problem  # the service's libraries take a while

    mode, problem = config.sandbox.mode, sandbox_problem()
    if mode == "off":
        problem = "sandbox.mode is off"
    detail = "engines run under Landlock"
    if problem:
        detail = f"engines are not sandboxed: {problem}"
    elif os.geteuid() == 0:
        detail += ", but reach the sockets of root's services; run Modelium as a user of its own"
    return Finding(what="sandbox", ok=mode != "required" or not problem, detail=detail)


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
    """Check that a command exists, and the interpreter if it is a script."""
    found = shutil.which(command)
    if found is None:
        return Finding(what=what, ok=False, detail=f"command {command!r} not found")
    with open(found, "rb") as file:
        head = file.readline(1024)
    interpreter = head[2:].decode(errors="replace").split() if head.startswith(b"#!") else []
    if interpreter and not Path(interpreter[0]).exists():
        detail = f"{found} cannot start: its interpreter {interpreter[0]} is gone; reinstall it"
        return Finding(what=what, ok=False, detail=detail)
    return Finding(what=what, ok=True, detail=found)


def _vllm(command: str) -> Finding:
    """Check the command and its environment; `vllm --version` would take ten seconds."""
    checked = _command("vLLM", command)
    python = Path(checked.detail).resolve().parent / "python"
    if not checked.ok or not python.exists():
        return checked
    version = packages(python).get("vllm")
    if version is None:
        detail = f"{checked.detail}: vllm cannot be imported in its environment; reinstall it"
        return Finding(what="vLLM", ok=False, detail=detail)
    return Finding(what="vLLM", ok=True, detail=f"{checked.detail} (version {version})")


def _replicas(python: str) -> Finding:
    """Check that Ray can start replicas with this interpreter."""
    checked = _command("Python interpreter of Ray Serve replicas", python)
    problem = replica_problem(packages(Path(checked.detail))) if checked.ok else ""
    if not problem:
        return checked
    return Finding(what=checked.what, ok=False, detail=f"{checked.detail} {problem}")


def _live(what: str, endpoint: str) -> Finding:
    """Check that Triton answers over HTTP at the address that requests are forwarded to."""
    setting = "set triton.endpoint to Triton's --http-address and --http-port (8000 by default)"
    try:
        answer = httpx.get(
            f"{endpoint.rstrip('/')}/v2/health/live", timeout=PROBE_S, trust_env=False
        )
    except httpx.HTTPError as exc:
        problem = f"no answer at {endpoint}: {exc or type(exc).__name__}"
    else:
        if answer.status_code == httpx.codes.OK:
            return Finding(what=what, ok=True, detail=f"answers at {endpoint}")
        problem = f"the server at {endpoint} is no live Triton (status {answer.status_code})"
    return Finding(what=what, ok=False, detail=f"{problem}; {setting}")


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
