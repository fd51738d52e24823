"""Error messages for invalid fields."""

from __future__ import annotations

import pytest

from tests.modelium.config.reading import wrong


def test_all_are_named_with_what_was_given_and_what_is_allowed() -> None:
    text = """
orchestration:
  policies:
    max_gpu_memory_utilization: 90
    always_loaded: [good, "not good"]
gateway: {port: 70000, host: ""}
prefect: {enabled: "yes", retention_days: 0}
models:
  gpt2: {priority: urgent}
  "../evil": {}
"""
    assert wrong(text) == [
        'orchestration.policies.always_loaded.1: got "not good"; allowed: '
        "model name (up to 128 letters, digits, `.`, `_`, `-`)",
        "orchestration.policies.max_gpu_memory_utilization: got 90; allowed: number > 0 and ≤ 1",
        'gateway.host: got ""; allowed: non-empty string',
        "gateway.port: got 70000; allowed: integer ≥ 0 and ≤ 65535",
        'prefect.enabled: got "yes"; allowed: true or false',
        "prefect.retention_days: got 0; allowed: number > 0 or a duration (90s, 30m, 1h, 7d)",
        'models.gpt2.priority: got "urgent"; allowed: one of high, medium, low or null',
        "models.../evil: invalid key; allowed: "
        "model name (up to 128 letters, digits, `.`, `_`, `-`)",
    ]


def test_one_wrong_value_of_a_union_is_one_line() -> None:
    assert wrong("vllm: {default_settings: {dtype: [half]}}") == [
        "vllm.default_settings.dtype: got a list; allowed: string or number or true or false"
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("gatway: {}", "gatway: unknown key; did you mean gateway?"),
        ("gateway: {prot: 1}", "gateway.prot: unknown key; did you mean port?"),
        (
            "min_qps_threshold: 1",
            "min_qps_threshold: unknown key here; "
            "did you mean orchestration.policies.min_qps_threshold?",
        ),
        (
            "store: {zzz: 1}",
            "store.zzz: unknown key; allowed: url",
        ),
        (
            "models: {gpt2: {pined: true}}",
            "models.gpt2.pined: unknown key; did you mean pinned?",
        ),
    ],
)
def test_an_unknown_key_comes_with_the_nearest_known_one(text: str, line: str) -> None:
    assert wrong(text) == [line]


def test_a_section_that_is_no_mapping_names_its_fields() -> None:
    assert wrong("store: [1]") == ["store: got a list; allowed: a mapping with the fields url"]


def test_keys_that_are_no_text_are_named() -> None:
    assert wrong("models: {1: {}}")[0].startswith("models.1: invalid key; ")
    assert wrong("1: 2")[0].startswith("1: ")


@pytest.mark.parametrize(
    "text",
    [
        "gateway: {token: s3cret pass}",
        "gateway: {token: [s3cret]}",
        "gateway: {tokn: s3cret}",
        "gateway: s3cret",
        "vllm: {environment: {HF_TOKEN: [s3cret]}}",
        "vllm: {environment: s3cret}",
        'prefect: {api_url: "ftp://me:s3cret@host"}',
        "store: {url: [s3cret]}",
    ],
)
def test_what_may_be_secret_is_not_repeated(text: str) -> None:
    lines = wrong(text)

    assert lines
    assert "s3cret" not in "\n".join(lines)


def test_a_number_for_a_secret_is_not_repeated() -> None:
    (line,) = wrong("gateway: {token: 4711}")

    assert line.startswith("gateway.token: got a value (hidden); allowed: string")
    assert "4711" not in line


def test_fields_that_do_not_agree_are_all_named() -> None:
    lines = wrong(
        "gateway: {host: 0.0.0.0, port: 4200}\n"
        "orchestration: {model_repository: /m/r, incoming_directory: /m/r/in, "
        "rejected_directory: /r}\n"
    )

    assert [line.split(":")[0] for line in lines] == [
        "gateway.token",
        "orchestration.incoming_directory",
        "prefect.port",
    ]
