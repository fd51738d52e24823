"""`modelium doctor`: checks of the configured runtimes and the LLM."""

from __future__ import annotations

import os
import platform
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from modelium.app import drivers
from modelium.cli import doctor
from modelium.cli.doctor import examine
from modelium.cli.findings import Finding
from modelium.cli.listening import service
from modelium.config import Config
from modelium.control import addresses, service_lock

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _patient_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No check here may fail because the machine is busy; none of them waits for a time-out."""
    monkeypatch.setattr(doctor, "PROBE_S", 60.0)


def findings(folder: Path, triton: dict[str, object]) -> dict[str, Finding]:
    config = Config.model_validate(
        {
            "orchestration": {
                "model_repository": str(folder / "repository"),
                "incoming_directory": str(folder / "incoming"),
            },
            "triton": {"enabled": True, **triton},
        }
    )
    return {finding.what: finding for finding in examine(config) if "Triton" in finding.what}


@contextmanager
def http_server(answers: bytes = b"HTTP/1.1 400 Bad Request\r\n\r\n") -> Iterator[int]:
    """An HTTP/1 server of Triton's health: all else, such as HTTP/2, is answered with a 400."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            try:
                while True:
                    connection, _ = server.accept()
                    with connection:
                        if asked := connection.recv(1024):
                            live = asked.startswith(b"GET /v2/health/live ")
                            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" if live else answers)
            except OSError:
                return

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@pytest.fixture
def grpc_port() -> Iterator[int]:
    """A real gRPC server without services."""
    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(0).wait(5)


def test_both_addresses_of_triton_are_checked(tmp_path: Path, grpc_port: int) -> None:
    with http_server() as http:
        found = findings(
            tmp_path,
            {"endpoint": f"http://127.0.0.1:{http}", "grpc_endpoint": f"127.0.0.1:{grpc_port}"},
        )
    assert found["Triton"].ok
    assert found["Triton (gRPC)"].ok, found


def test_tritons_http_address_is_asked_as_requests_are_sent(tmp_path: Path, grpc_port: int) -> None:
    """The gRPC port answers TCP, too."""
    found = findings(tmp_path, {"endpoint": f"http://127.0.0.1:{grpc_port}"})
    assert not found["Triton"].ok
    assert "set triton.endpoint" in found["Triton"].detail


def test_an_http_server_at_the_grpc_address_is_reported(tmp_path: Path) -> None:
    """Triton's metrics port, say."""
    with http_server() as http, http_server() as metrics:
        found = findings(
            tmp_path,
            {"endpoint": f"http://127.0.0.1:{http}", "grpc_endpoint": f"localhost:{metrics}"},
        )
    assert found["Triton"].ok
    control = found["Triton (gRPC)"]
    assert not control.ok
    assert "does not speak gRPC; set triton.grpc_endpoint" in control.detail


def test_an_unreachable_default_grpc_address_is_named(
    tmp_path: Path,
) -> None:
    with http_server() as http:
        found = findings(tmp_path, {"endpoint": f"http://127.0.0.1:{http}"})
    assert f"127.0.0.1:{http + 1}" in found["Triton (gRPC)"].detail
    assert not found["Triton (gRPC)"].ok


def test_a_triton_that_modelium_starts_is_checked_as_a_command(tmp_path: Path) -> None:
    found = findings(tmp_path, {"command": ["no-such-tritonserver"]})
    assert list(found) == ["Triton"]
    assert "no-such-tritonserver" in found["Triton"].detail and not found["Triton"].ok


def ray_serve(folder: Path, port: int) -> Finding:
    folders = {
        "model_repository": str(folder / "repository"),
        "incoming_directory": str(folder / "incoming"),
    }
    section = {"enabled": True, "endpoint": f"http://127.0.0.1:{port}"}
    config = Config.model_validate({"orchestration": folders, "ray_serve": section})
    return next(finding for finding in examine(config) if finding.what == "Ray Serve")


def test_another_program_at_serves_address_is_reported(tmp_path: Path) -> None:
    with http_server() as port:
        found = ray_serve(tmp_path, port)
    assert not found.ok
    assert f"another program listens at http://127.0.0.1:{port}" in found.detail
    free = ray_serve(tmp_path, port)
    assert free.ok and "Modelium starts one" in free.detail


def test_a_running_serve_is_told_apart(tmp_path: Path) -> None:
    with http_server(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nsuccess") as port:
        found = ray_serve(tmp_path, port)
    assert found.ok and "is used" in found.detail


def test_whether_engines_are_sandboxed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(mode: str) -> tuple[bool, str]:
        folders = {
            "model_repository": str(tmp_path / "repository"),
            "incoming_directory": str(tmp_path / "incoming"),
        }
        given = {"orchestration": folders, "sandbox": {"mode": mode}}
        found = {one.what: one for one in examine(Config.model_validate(given))}["sandbox"]
        return found.ok, found.detail

    monkeypatch.setattr(drivers, "sandbox_problem", lambda: "")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert said("auto") == (True, "engines run under Landlock")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert said("auto") == (
        True,
        "engines run under Landlock, but reach the sockets of root's services; "
        "run Modelium as a user of its own",
    )
    assert said("off") == (True, "engines are not sandboxed: sandbox.mode is off")
    monkeypatch.setattr(drivers, "sandbox_problem", lambda: "no Landlock")
    assert said("auto") == (True, "engines are not sandboxed: no Landlock")
    assert said("required") == (False, "engines are not sandboxed: no Landlock")


def test_an_llm_is_among_the_checks(tmp_path: Path) -> None:
    folders = {
        "model_repository": str(tmp_path / "repository"),
        "incoming_directory": str(tmp_path / "incoming"),
    }
    brain = {"base_url": "http://127.0.0.1:1/v1"}
    found = examine(Config.model_validate({"orchestration": folders, "brain": brain}))
    detail = "brain.model is not set, so the rules decide alone; name a model of that API"
    assert found[-1] == Finding(what="LLM", ok=False, detail=detail)


def settings(folder: Path, **sections: object) -> Config:
    folders = {
        "model_repository": str(folder / "repository"),
        "incoming_directory": str(folder / "incoming"),
        "metrics": {"prometheus_port": 0},
    }
    free = {"gateway": {"port": 0}, "prefect": {"port": 0}}
    return Config.model_validate({"orchestration": folders, **free, **sections})


def test_a_port_that_is_taken_is_named_with_its_field(tmp_path: Path) -> None:
    with http_server() as port:
        found = {f.what: f for f in examine(settings(tmp_path, gateway={"port": port}))}
        taken = found[f"port {port}"]
        assert not taken.ok
        assert "gateway.port" in taken.detail and "or 0" in taken.detail
    assert {f.what: f for f in examine(settings(tmp_path, gateway={"port": port}))}[
        f"port {port}"
    ].ok


def test_a_running_service_is_asked_instead_of_its_ports(tmp_path: Path) -> None:
    config = settings(tmp_path)
    with service_lock.hold(config.orchestration.state):
        (starting,) = service(config)
        assert starting.ok and "is starting" in starting.detail
        with http_server() as port:
            addresses.write(config.orchestration.state, {"gateway": f"http://127.0.0.1:{port}"})
            (runs,) = service(config)
            assert runs.ok and f"answers at http://127.0.0.1:{port}" in runs.detail
        (silent,) = service(config)
        assert not silent.ok and "does not answer" in silent.detail


def script(file: Path, text: str) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)
    return str(file)


def engine(folder: Path, **sections: object) -> Finding:
    found = examine(settings(folder, **sections))
    return next(f for f in found if f.what in ("vLLM", "llama.cpp") or "replicas" in f.what)


def test_a_script_whose_interpreter_is_gone_is_found_out(tmp_path: Path) -> None:
    command = script(tmp_path / "bin/llama-server", "#!/no/such/python\n")

    found = engine(tmp_path, llama_cpp={"enabled": True, "executable": command})

    assert not found.ok
    assert "/no/such/python is gone" in found.detail


@pytest.mark.parametrize(
    ("there", "ok", "said"),
    [
        ('{"python": "3.12.1", "vllm": "0.22.0"}', True, "version 0.22.0"),
        ('{"python": "3.12.1"}', False, "vllm cannot be imported"),
    ],
)
def test_vllms_environment_has_to_have_vllm(
    there: str, ok: bool, said: str, tmp_path: Path
) -> None:
    script(tmp_path / "bin/python", f"#!/bin/sh\necho '{there}'\n")
    command = script(tmp_path / "bin/vllm", "#!/bin/sh\n")

    found = engine(tmp_path, vllm={"enabled": True, "executable": command})

    assert found.ok is ok
    assert said in found.detail


def test_replicas_need_the_same_ray(tmp_path: Path) -> None:
    there = f'{{"python": "{platform.python_version()}", "ray": "1.0.0"}}'
    python = script(tmp_path / "bin/python", f"#!/bin/sh\necho '{there}'\n")

    found = engine(tmp_path, ray_serve={"enabled": True, "python": python})

    assert not found.ok
    assert "ray 1.0.0" in found.detail


def test_folders_that_cannot_be_made_are_named_with_what_to_do(tmp_path: Path) -> None:
    config = Config.model_validate(
        {
            "orchestration": {
                "model_repository": str(tmp_path / "repository"),
                "incoming_directory": "/proc/modelium/incoming",
            }
        }
    )
    found = {finding.what: finding for finding in examine(config)}
    assert found["model repository"].ok
    assert str(tmp_path / "repository") in found["model repository"].detail
    for what, field in (("drop zone", "incoming"), ("rejected drops", "rejected")):
        assert not found[what].ok
        assert f"set orchestration.{field}_directory to another folder" in found[what].detail
