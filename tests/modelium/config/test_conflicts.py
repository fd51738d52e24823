"""Fields that are valid by themselves but conflict with each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from modelium.config import Config, Orchestration
from modelium.config.conflicts import Conflicts


def conflicts(**sections: Any) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        Config.model_validate(sections)
    (detail,) = caught.value.errors()
    error = detail["ctx"]["error"]
    assert isinstance(error, Conflicts)
    return {".".join(path): text for path, text in error.problems}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gpu-1.example"])
def test_off_loopback_a_token_is_required(host: str) -> None:
    assert "is not loopback" in conflicts(gateway={"host": host})["gateway.token"]
    assert Config.model_validate(
        {"gateway": {"host": host, "token": "s3cret-of-16-chars"}}
    ).gateway.token
    short = conflicts(gateway={"host": host, "token": "s3cret"})["gateway.token"]
    assert "shorter than 16" in short and "openssl" in short


def test_a_gateway_with_a_certificate_is_not_advertised_as_plain_http() -> None:
    gateway = {"advertise": "http://gpu1:8000", "tls_certificate": "gpu1.pem"}
    assert "use https://" in conflicts(gateway=gateway)["gateway.advertise"]
    Config.model_validate({"gateway": gateway | {"advertise": "https://gpu1:8000"}})
    Config.model_validate({"gateway": {"advertise": "https://proxy:443"}})


@pytest.mark.parametrize("runtime", ["vllm", "llama_cpp"])
def test_engines_listen_on_loopback_alone(runtime: str) -> None:
    found = conflicts(**{runtime: {"enabled": True, "host": "0.0.0.0"}})
    assert "past the gateway" in found[f"{runtime}.host"]
    Config.model_validate({runtime: {"enabled": True, "host": "::1"}})
    Config.model_validate({runtime: {"enabled": False, "host": "0.0.0.0"}})


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("brain", "base_url", "http://169.254.169.254/v1"),
        ("triton", "endpoint", "http://[fe80::1]:8003"),
        ("triton", "grpc_endpoint", "169.254.1.1:8004"),
        ("ray_serve", "endpoint", "http://[fd00:ec2::254]:8002"),
        ("ray_serve", "address", "metadata.google.internal:6379"),
        ("prefect", "api_url", "http://2852039166/api"),
    ],
)
def test_the_service_connects_to_no_metadata_service(section: str, field: str, value: str) -> None:
    given = {section: {field: value} | ({} if section == "brain" else {"enabled": True})}
    assert "where clouds give out credentials" in conflicts(**given)[f"{section}.{field}"]


def test_a_link_local_server_can_be_allowed() -> None:
    llm = {"base_url": "http://169.254.7.7:8000/v1"}
    Config.model_validate({"brain": llm, "orchestration": {"allowed_link_local": ["169.254.7.7"]}})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_loopback_no_token_is_required(host: str) -> None:
    assert Config.model_validate({"gateway": {"host": host}}).gateway.token is None


@pytest.mark.parametrize(
    ("folders", "wrong"),
    [
        ({"model_repository": "/m", "incoming_directory": "/m"}, "incoming_directory"),
        ({"model_repository": "/m", "incoming_directory": "/m/in"}, "incoming_directory"),
        ({"model_repository": "/m/in/r", "incoming_directory": "/m/in"}, "incoming_directory"),
        ({"incoming_directory": "/m", "rejected_directory": "/m/no"}, "rejected_directory"),
        ({"model_repository": "/m", "state_directory": "/m/state"}, "state_directory"),
        ({"incoming_directory": "/m/in", "state_directory": "/m/rejected"}, "state_directory"),
    ],
)
def test_folders_keep_out_of_each_other(folders: dict[str, str], wrong: str) -> None:
    assert f"orchestration.{wrong}" in conflicts(orchestration=folders)


def test_a_folder_whose_name_only_begins_alike_is_no_clash() -> None:
    Orchestration.model_validate({"model_repository": "/m/r", "incoming_directory": "/m/r-in"})


def test_folders_may_lie_in_the_state_directory() -> None:
    folders = {
        "state_directory": "/m",
        "model_repository": "/m/repository",
        "incoming_directory": "/m/incoming",
    }

    assert Config.model_validate({"orchestration": folders}).orchestration.state == Path("/m")


def test_ports_that_are_listened_on_differ() -> None:
    found = conflicts(
        gateway={"port": 9000},
        orchestration={"metrics": {"prometheus_port": 9000}},
        vllm={"enabled": True, "base_port": 4200},
    )

    assert "gateway.port" in found["orchestration.metrics.prometheus_port"]
    assert "prefect.port" in found["vllm.base_port"]


def test_ports_clash_with_runtimes_on_this_machine_only() -> None:
    here = {"enabled": True, "endpoint": "http://localhost:8000"}
    there = {"enabled": True, "endpoint": "http://gpu-2:8000"}

    assert "triton.endpoint" in conflicts(triton=here)
    assert Config.model_validate({"triton": there}).triton.enabled


def test_ports_of_what_is_off_and_port_0_never_clash() -> None:
    Config.model_validate(
        {
            "gateway": {"port": 0},
            "prefect": {"port": 0},
            "orchestration": {"metrics": {"prometheus_enabled": False, "prometheus_port": 8100}},
            "vllm": {"enabled": True},
            "llama_cpp": {"enabled": False, "base_port": 8100},
        }
    )
