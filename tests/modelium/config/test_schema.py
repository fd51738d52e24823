"""The configuration's own rules: the seed's block, defaults, fields that depend on each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from modelium.config import Config, Gateway, Orchestration
from modelium.config.lookup import document, entries, own_entries
from modelium.config.wording import mapping_values
from modelium.models import DepartureKind, RuntimeName

SEED = Path(__file__).parents[2] / "data" / "seed_configuration.md"


def seed_block() -> dict[str, Any]:
    block = re.search(r"```yaml\n(.*?)```", SEED.read_text(encoding="utf-8"), re.DOTALL)
    assert block
    data = yaml.safe_load(block.group(1))
    assert isinstance(data, dict)
    return data


def test_the_seeds_block_loads_verbatim() -> None:
    config = Config.model_validate(seed_block())

    assert config.orchestration.model_repository == Path("/models/repository")
    assert config.orchestration.policies.always_loaded == {"production-gpt", "chat-model"}
    assert config.orchestration.policies.high_priority_teams == {"prod", "research"}
    assert config.orchestration.metrics.prometheus_port == 9090
    assert config.triton.endpoint == "http://localhost:8003"
    assert config.vllm.default_settings == {"dtype": "float16", "max_model_len": 2048}
    assert config.ray_serve.endpoint == "http://localhost:8002"


def test_the_seeds_values_that_are_policies_are_the_defaults() -> None:
    seed = seed_block()["orchestration"]["policies"]
    defaults = Config().orchestration.policies

    for name in (
        "auto_unload_after_seconds",
        "min_qps_threshold",
        "max_gpu_memory_utilization",
        "enable_model_swapping",
    ):
        assert getattr(defaults, name) == seed[name]


def test_the_policy_carries_every_runtime_and_every_policy_field() -> None:
    policy = Config.model_validate(seed_block()).policy()

    assert {name for name in RuntimeName if policy.rules(name).enabled} == {
        RuntimeName.VLLM,
        RuntimeName.TRITON,
        RuntimeName.RAY_SERVE,
    }
    assert policy.rules(RuntimeName.VLLM).default_settings["max_model_len"] == 2048
    assert policy.always_loaded == {"production-gpt", "chat-model"}


def test_every_field_says_what_it_is_and_why_its_default_is_so() -> None:
    model = mapping_values(document()["properties"]["models"])
    assert model is not None
    for entry in [*entries(), *own_entries(model)]:
        assert re.fullmatch(r"\S.+[.] \S.*[.]", entry.description), entry.dotted


def test_every_number_has_a_unit() -> None:
    for entry in entries():
        if re.search(r"\b(number|integer)\b", entry.allowed) and "mapping" not in entry.allowed:
            assert entry.unit, entry.dotted


def test_folders_are_absolute_without_detours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")

    folders = Orchestration.model_validate(
        {"model_repository": "/a/../b", "incoming_directory": "~/drops", "state_directory": "state"}
    )

    assert folders.model_repository == Path("/b")
    assert folders.incoming_directory == Path("/home/ada/drops")
    assert folders.state == Path.cwd() / "state"


def test_an_empty_section_is_its_defaults() -> None:
    config = Config.model_validate({"gateway": None, "models": {"gpt2": None}})

    assert config.gateway == Gateway()
    assert not config.models["gpt2"].pinned


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("gateway", "port", True),
        ("gateway", "port", "8000"),
        ("gateway", "port", 65536),
        ("gateway", "token", ""),
        ("gateway", "token", "two words"),
        ("gateway", "max_wait_seconds", float("nan")),
        ("gateway", "max_wait_seconds", float("inf")),
        ("prefect", "enabled", "no"),
        ("triton", "endpoint", "localhost:8003"),
        ("triton", "endpoint", "http://localhost:port"),
        ("triton", "grpc_endpoint", "http://localhost:8004"),
        ("ray_serve", "address", "gpu-1"),
        ("vllm", "default_settings", {"dtype": None}),
    ],
)
def test_a_slip_is_refused_rather_than_converted(section: str, field: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate({section: {field: value}})


@pytest.mark.parametrize(
    ("base_url", "here"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://localhost:8000/v1", True),
        ("http://127.0.0.1:11434/v1", False),
        ("http://llm.example:8000/v1", False),
        (None, False),
    ],
)
def test_a_brain_behind_the_own_gateway_is_known_as_such(base_url: str | None, here: bool) -> None:
    config = Config.model_validate({"brain": {"base_url": base_url, "model": "m"}})
    assert config.brain_served_here is here


LLM = {"base_url": "http://llm/v1", "model": "m"}


@pytest.mark.parametrize(
    ("brain", "allowed"),
    [
        (LLM, {}),
        ({**LLM, "authority": "decide"}, dict.fromkeys(DepartureKind, 300.0)),
        ({**LLM, "authority": "decide", "may": {"evict": 60}}, {DepartureKind.EVICT: 60.0}),
        ({**LLM, "authority": "decide", "may": {}}, {}),
        ({**LLM, "authority": "advise", "may": {"evict": 60}}, {}),
        ({"authority": "decide"}, {}),
        ({"authority": "decide", "base_url": "http://llm/v1"}, {}),
    ],
)
def test_departures_need_an_llm_with_authority(brain: Any, allowed: Any) -> None:
    assert Config.model_validate({"brain": brain}).policy().departures == allowed


@pytest.mark.parametrize(
    ("brain", "wrong"),
    [
        ({"authority": "all"}, "authority"),
        ({"may": {"unload": 1}}, "may"),
        ({"may": {"evict": -1}}, "may"),
        ({"may": {"evict": "much"}}, "may"),
        ({"time_zone": "Europe/Nowhere"}, "'Europe/Nowhere' is no IANA time zone"),
        ({"time_zone": "../etc/passwd"}, "is no IANA time zone"),
    ],
)
def test_what_an_llm_may_is_bounded(brain: Any, wrong: str) -> None:
    with pytest.raises(ValidationError, match=wrong):
        Config.model_validate({"brain": brain})


def test_the_time_zone_is_part_of_the_policy() -> None:
    assert Config().policy().time_zone == "UTC"
    given = Config.model_validate({"brain": {"time_zone": "Asia/Tokyo"}})
    assert given.policy().time_zone == "Asia/Tokyo"
