"""`modelium doctor`: checks of the configured runtimes and the LLM."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from modelium.cli import doctor
from modelium.cli.doctor import Finding, examine
from modelium.config import Config


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
    """A server that answers any request with 400, as HTTP/1 servers do to HTTP/2."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            try:
                while True:
                    connection, _ = server.accept()
                    with connection:
                        if connection.recv(1024):
                            connection.sendall(answers)
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
    with socket.create_server(("127.0.0.1", 0)) as server:
        http = int(server.getsockname()[1])
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


def brain(folder: Path, **given: str) -> list[Finding]:
    folders = {
        "model_repository": str(folder / "repository"),
        "incoming_directory": str(folder / "incoming"),
    }
    config = Config.model_validate({"orchestration": folders, "brain": given})
    return [finding for finding in examine(config) if "LLM" in finding.what]


def test_without_an_llm_nothing_is_checked(tmp_path: Path) -> None:
    assert brain(tmp_path) == []


def test_the_llms_address_and_model_are_checked(tmp_path: Path) -> None:
    with http_server() as port:
        url = f"http://127.0.0.1:{port}/v1"
        (found,) = brain(tmp_path, base_url=url, model="judge")
        assert found.ok and found.detail == f"answers at 127.0.0.1:{port}"
        (nameless,) = brain(tmp_path, base_url=url)
        assert not nameless.ok and "brain.model is not set" in nameless.detail
    (gone,) = brain(tmp_path, base_url=url, model="judge")
    assert not gone.ok
