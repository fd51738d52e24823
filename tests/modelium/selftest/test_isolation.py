"""The configuration of the self-test's own service."""

from __future__ import annotations

from pathlib import Path

from modelium.config import Config
from modelium.models import RuntimeName
from modelium.selftest.isolation import isolated

USERS = {
    "orchestration": {
        "model_repository": "/models/repository",
        "incoming_directory": "/models/incoming",
        "node": "gpu-7",
        "policies": {"always_loaded": ["chat"]},
    },
    "gateway": {"host": "0.0.0.0", "port": 8000, "token": "secret-of-16-chars"},
    "vllm": {
        "enabled": True,
        "executable": "/opt/vllm/bin/vllm",
        "default_settings": {"dtype": "float16"},
    },
    "triton": {"enabled": True, "command": ["tritonserver"], "model_repository": "/models/triton"},
    "ray_serve": {"enabled": True, "address": "head:6379"},
    "devices": {"use": ["1"]},
}


def test_only_the_runtime_itself_is_the_users(tmp_path: Path) -> None:
    own = isolated(Config.model_validate(USERS), tmp_path, RuntimeName.VLLM)
    assert own.vllm.executable == "/opt/vllm/bin/vllm"
    assert own.vllm.default_settings == {"dtype": "float16"}
    assert own.orchestration.node == "gpu-7"
    assert own.devices.use == ("1",)
    assert own.orchestration.model_repository == tmp_path / "repository"
    assert own.orchestration.state.is_relative_to(tmp_path)
    assert own.orchestration.policies.always_loaded == frozenset()
    assert (own.gateway.host, own.gateway.port) == ("127.0.0.1", 0)
    assert not own.triton.enabled and not own.ray_serve.enabled and not own.prefect.enabled


def test_nobody_else_on_the_machine_may_use_it(tmp_path: Path) -> None:
    tokens = {
        own.gateway.token.get_secret_value()
        for _ in range(2)
        if (own := isolated(Config(), tmp_path, RuntimeName.VLLM)).gateway.token is not None
    }
    assert len(tokens) == 2, "each run has one of its own"


def test_a_triton_of_modeliums_own_is_started_anew_elsewhere(tmp_path: Path) -> None:
    own = isolated(Config.model_validate(USERS), tmp_path, RuntimeName.TRITON)
    assert own.triton.command == ("tritonserver",)
    assert own.triton.endpoint != "http://localhost:8003"
    assert own.triton.model_repository is None


def test_a_triton_of_the_users_keeps_address_and_repository(tmp_path: Path) -> None:
    section = {"enabled": True, "endpoint": "http://gpu:8003", "model_repository": "/models/triton"}
    own = isolated(Config.model_validate({"triton": section}), tmp_path, RuntimeName.TRITON)
    assert own.triton.endpoint == "http://gpu:8003"
    assert own.triton.model_repository == Path("/models/triton")


def test_a_cluster_of_the_users_is_used(tmp_path: Path) -> None:
    own = isolated(Config.model_validate(USERS), tmp_path, RuntimeName.RAY_SERVE)
    assert own.ray_serve.address == "head:6379"
