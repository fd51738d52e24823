"""``MODELIUM_SECTION__FIELD`` environment variables."""

from __future__ import annotations

import pytest

from tests.modelium.config.reading import read, wrong


def test_variables_override_the_file() -> None:
    effective = read(
        "gateway: {port: 1001, max_waiting_per_model: 5}",
        MODELIUM_GATEWAY__PORT="9000",
        MODELIUM_ORCHESTRATION__POLICIES__ALWAYS_LOADED="[chat-model]",
        PATH="/bin",
    )

    assert effective.config.gateway.port == 9000
    assert effective.config.gateway.max_waiting_per_model == 5
    assert effective.config.orchestration.policies.always_loaded == {"chat-model"}
    assert effective.source(("gateway", "port")) == "MODELIUM_GATEWAY__PORT"
    assert effective.source(("gateway", "max_waiting_per_model")) == "file"
    assert effective.source(("gateway", "host")) == "default"


@pytest.mark.parametrize("token", ["0123", "1e5", "true", "[x]", "a:b", "null!"])
def test_text_is_taken_as_it_stands(token: str) -> None:
    value = read("", MODELIUM_GATEWAY__TOKEN=token).config.gateway.token

    assert value is not None
    assert value.get_secret_value() == token


@pytest.mark.parametrize("nothing", ["", "null", "~"])
def test_an_optional_field_can_be_unset(nothing: str) -> None:
    effective = read("gateway: {token: abc}", MODELIUM_GATEWAY__TOKEN=nothing)

    assert effective.config.gateway.token is None


def test_a_key_of_a_mapping_is_set_by_its_own_name() -> None:
    config = read(
        "vllm: {default_settings: {dtype: float16, max_model_len: 1}}",
        MODELIUM_VLLM__DEFAULT_SETTINGS__max_model_len="2048",
        MODELIUM_VLLM__ENVIRONMENT__OMP_NUM_THREADS="4",
        MODELIUM_MODELS__gpt2__PRIORITY="high",
    ).config

    assert config.vllm.default_settings == {"dtype": "float16", "max_model_len": 2048}
    assert config.vllm.environment == {"OMP_NUM_THREADS": "4"}
    assert config.models["gpt2"].priority == "high"


def test_a_whole_mapping_comes_before_its_keys() -> None:
    config = read(
        "vllm: {default_settings: {gone: 1}}",
        MODELIUM_VLLM__DEFAULT_SETTINGS="{dtype: half, seed: 1}",
        MODELIUM_VLLM__DEFAULT_SETTINGS__seed="2",
    ).config

    assert config.vllm.default_settings == {"dtype": "half", "seed": 2}


def test_a_section_that_the_file_leaves_empty_takes_variables() -> None:
    assert read("gateway:\n", MODELIUM_GATEWAY__PORT="7").config.gateway.port == 7


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("MODELIUM_GATEWAY_PORT", "MODELIUM_GATEWAY__PORT"),
        ("MODELIUM_GATEWAY__PROT", "MODELIUM_GATEWAY__PORT"),
        ("MODELIUM_CONFG", "MODELIUM_CONFIG"),
        ("MODELIUM_GATEWAY__PORT__X", "MODELIUM_GATEWAY__PORT"),
    ],
)
def test_unknown_variables_are_errors_with_a_suggestion(name: str, suggestion: str) -> None:
    assert wrong("", **{name: "1"}) == [f"{name}: unknown variable; did you mean {suggestion}?"]


def test_variables_that_are_no_fields_are_fine() -> None:
    read("", MODELIUM_CONFIG="other.yaml", MODELIUM_URL="http://gpu-1:8000")


def test_a_section_cannot_be_replaced_as_a_whole() -> None:
    assert "unknown variable" in wrong("", MODELIUM_GATEWAY="{port: 1}")[0]


def test_the_brains_key_is_no_field_whatever_it_is_named() -> None:
    read("", MODELIUM_BRAIN_API_KEY="k")
    read("brain: {api_key_env: MODELIUM_MY_KEY}", MODELIUM_MY_KEY="k")
    read("", MODELIUM_BRAIN__API_KEY_ENV="MODELIUM_MY_KEY", MODELIUM_MY_KEY="k")
    assert "MODELIUM_MY_KEY: unknown" in wrong("", MODELIUM_MY_KEY="k")[0]


def test_errors_name_the_variable_beside_those_of_the_file() -> None:
    assert wrong(
        "gateway: {host: 5}",
        MODELIUM_GATEWAY__PORT="many",
        MODELIUM_VLLM__DEFAULT_SETTINGS="{a: ",
        MODELIUM_TYPO="1",
    ) == [
        "gateway.host: got 5; allowed: non-empty string",
        'MODELIUM_GATEWAY__PORT: gateway.port: got "many"; allowed: integer ≥ 0 and ≤ 65535',
        "MODELIUM_VLLM__DEFAULT_SETTINGS: vllm.default_settings: not YAML; "
        "allowed: mapping of string to string or number or true or false, as YAML",
        "MODELIUM_TYPO: unknown variable; docs/configuration.md lists all fields",
    ]


def test_a_variable_below_a_section_that_is_wrong_leaves_the_files_error() -> None:
    assert wrong("gateway: 5", MODELIUM_GATEWAY__PORT="1")[0].startswith("gateway: got 5;")


def test_a_machine_joins_with_a_token_under_a_short_name() -> None:
    effective = read("", MODELIUM_JOIN_TOKEN="mdj_1")

    token = effective.config.orchestration.join_token
    assert token is not None and token.get_secret_value() == "mdj_1"
    assert effective.source(("orchestration", "join_token")) == "MODELIUM_JOIN_TOKEN"
    assert "did you mean MODELIUM_JOIN_TOKEN" in wrong("", MODELIUM_JOINTOKEN="x")[0]
