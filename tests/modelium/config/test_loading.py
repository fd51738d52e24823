"""Finding and reading the file, the environment over it, and the errors that people see."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelium.config.loading import Effective, load, load_effective
from modelium.errors import ConfigError


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def wrong(text: str, **environ: str) -> list[str]:
    """The lines of the error that a file with ``text`` gives, without the file's name."""
    Path("m.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(Path("m.yaml"), environ)
    return [line.removeprefix("m.yaml: ") for line in str(caught.value).splitlines()]


def read(text: str, **environ: str) -> Effective:
    Path("m.yaml").write_text(text, encoding="utf-8")
    return load_effective(Path("m.yaml"), environ)


class TestFinding:
    def test_a_named_file_wins_over_the_variable_and_the_working_directory(self) -> None:
        for name, port in (("named", 1001), ("variable", 1002), ("modelium", 1003)):
            Path(f"{name}.yaml").write_text(f"gateway: {{port: {port}}}")
        environ = {"MODELIUM_CONFIG": "variable.yaml"}

        assert load(Path("named.yaml"), environ).gateway.port == 1001
        assert load(None, environ).gateway.port == 1002
        assert load(None, {}).gateway.port == 1003

    def test_without_a_file_the_defaults_hold(self) -> None:
        effective = load_effective(None, {"MODELIUM_CONFIG": ""})

        assert effective.file is None
        assert effective.config.gateway.port == 8000

    @pytest.mark.parametrize("content", ["", "# nothing\n", "gateway:\n  # port: 1\n"])
    def test_an_empty_file_is_the_defaults(self, content: str) -> None:
        assert read(content).config.gateway.port == 8000

    def test_a_file_that_is_named_but_absent_is_an_error(self) -> None:
        with pytest.raises(ConfigError, match=r"none\.yaml: no such file; .*config init"):
            load(None, {"MODELIUM_CONFIG": "none.yaml"})

    def test_a_folder_is_an_error(self) -> None:
        with pytest.raises(ConfigError, match=r"cannot be read"):
            load(Path(), {})


class TestYaml:
    def test_broken_yaml_names_the_place_but_not_the_line_that_may_hold_a_secret(self) -> None:
        (line,) = wrong("gateway:\n  token: s3cret: oops\n")

        assert line.startswith("m.yaml:2:16: not YAML: ")
        assert "s3cret" not in line

    def test_a_key_given_twice_is_an_error(self) -> None:
        assert wrong("gateway:\n  port: 1\n  port: 2\n") == [
            "m.yaml:3:3: not YAML: the key port is given twice"
        ]

    def test_python_objects_are_not_built(self) -> None:
        assert "not YAML" in wrong("gateway: !!python/object/apply:os.getcwd []")[0]

    def test_bytes_that_are_no_text_are_an_error(self) -> None:
        Path("m.yaml").write_bytes(b"\xff\xfe\xff")
        with pytest.raises(ConfigError, match="UTF-8"):
            load(Path("m.yaml"), {})

    def test_a_list_at_the_top_is_an_error(self) -> None:
        assert wrong("- gateway") == [
            "holds a list; allowed: a mapping with the sections orchestration, ingest, triton, "
            "vllm, ray_serve, llama_cpp, gateway, prefect, store, brain, models"
        ]

    @pytest.mark.parametrize("text", ["? [a, b]\n: 1", "gateway: {port: 0b_}", "a: \x01"])
    def test_what_yaml_or_the_loader_cannot_read_is_an_error(self, text: str) -> None:
        assert "not YAML" in wrong(text)[0]

    def test_what_looks_like_a_date_is_text(self) -> None:
        config = read("models: {m: {team: 2026-01-01}, n: {team: 2026-99-99}}").config

        assert config.models["m"].team == "2026-01-01"
        assert config.models["n"].team == "2026-99-99"

    def test_merge_keys_and_anchors_work(self) -> None:
        text = "models:\n  a: &base {team: prod}\n  b:\n    <<: *base\n    pinned: true\n"

        assert read(text).config.models["b"].team == "prod"


class TestWrongFields:
    def test_all_are_named_with_what_was_given_and_what_is_allowed(self) -> None:
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
            "orchestration.policies.max_gpu_memory_utilization: got 90; "
            "allowed: number > 0 and ≤ 1",
            'gateway.host: got ""; allowed: text (not empty)',
            "gateway.port: got 70000; allowed: whole number ≥ 0 and ≤ 65535",
            'prefect.enabled: got "yes"; allowed: true or false',
            "prefect.retention_days: got 0; allowed: number > 0",
            'models.gpt2.priority: got "urgent"; allowed: one of high, medium, low or null',
            "models.../evil: this key is not allowed; allowed: "
            "model name (up to 128 letters, digits, `.`, `_`, `-`)",
        ]

    def test_one_wrong_value_of_a_union_is_one_line(self) -> None:
        assert wrong("vllm: {default_settings: {dtype: [half]}}") == [
            "vllm.default_settings.dtype: got a list; allowed: text or number or true or false"
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
    def test_an_unknown_key_comes_with_the_nearest_known_one(self, text: str, line: str) -> None:
        assert wrong(text) == [line]

    def test_a_section_that_is_no_mapping_names_its_fields(self) -> None:
        assert wrong("store: [1]") == ["store: got a list; allowed: a mapping with the fields url"]

    def test_keys_that_are_no_text_are_named(self) -> None:
        assert wrong("models: {1: {}}")[0].startswith("models.1: this key is not allowed")
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
    def test_what_may_be_secret_is_not_repeated(self, text: str) -> None:
        lines = wrong(text)

        assert lines
        assert "s3cret" not in "\n".join(lines)

    def test_a_number_for_a_secret_is_not_repeated(self) -> None:
        (line,) = wrong("gateway: {token: 4711}")

        assert line.startswith("gateway.token: got a value (hidden); allowed: text")
        assert "4711" not in line

    def test_fields_that_do_not_agree_are_all_named(self) -> None:
        lines = wrong(
            "gateway: {host: 0.0.0.0, port: 4200}\n"
            "orchestration: {incoming_directory: /models/repository/in, "
            "rejected_directory: /r}\n"
        )

        assert [line.split(":")[0] for line in lines] == [
            "gateway.token",
            "orchestration.incoming_directory",
            "prefect.port",
        ]


class TestEnvironment:
    def test_variables_override_the_file(self) -> None:
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
    def test_text_is_taken_as_it_stands(self, token: str) -> None:
        value = read("", MODELIUM_GATEWAY__TOKEN=token).config.gateway.token

        assert value is not None
        assert value.get_secret_value() == token

    @pytest.mark.parametrize("nothing", ["", "null", "~"])
    def test_an_optional_field_can_be_unset(self, nothing: str) -> None:
        effective = read("gateway: {token: abc}", MODELIUM_GATEWAY__TOKEN=nothing)

        assert effective.config.gateway.token is None

    def test_a_key_of_a_mapping_is_set_by_its_own_name(self) -> None:
        config = read(
            "vllm: {default_settings: {dtype: float16, max_model_len: 1}}",
            MODELIUM_VLLM__DEFAULT_SETTINGS__max_model_len="2048",
            MODELIUM_VLLM__ENVIRONMENT__OMP_NUM_THREADS="4",
            MODELIUM_MODELS__gpt2__PRIORITY="high",
        ).config

        assert config.vllm.default_settings == {"dtype": "float16", "max_model_len": 2048}
        assert config.vllm.environment == {"OMP_NUM_THREADS": "4"}
        assert config.models["gpt2"].priority == "high"

    def test_a_whole_mapping_comes_before_its_keys(self) -> None:
        config = read(
            "vllm: {default_settings: {gone: 1}}",
            MODELIUM_VLLM__DEFAULT_SETTINGS="{dtype: half, seed: 1}",
            MODELIUM_VLLM__DEFAULT_SETTINGS__seed="2",
        ).config

        assert config.vllm.default_settings == {"dtype": "half", "seed": 2}

    def test_a_section_that_the_file_leaves_empty_takes_variables(self) -> None:
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
    def test_unknown_variables_are_errors_with_a_suggestion(
        self, name: str, suggestion: str
    ) -> None:
        assert wrong("", **{name: "1"}) == [f"{name}: unknown variable; did you mean {suggestion}?"]

    def test_variables_that_are_no_fields_are_fine(self) -> None:
        read("", MODELIUM_CONFIG="other.yaml", MODELIUM_URL="http://gpu-1:8000")

    def test_a_section_cannot_be_replaced_as_a_whole(self) -> None:
        assert "unknown variable" in wrong("", MODELIUM_GATEWAY="{port: 1}")[0]

    def test_the_brains_key_is_no_field_whatever_it_is_named(self) -> None:
        read("", MODELIUM_BRAIN_API_KEY="k")
        read("brain: {api_key_env: MODELIUM_MY_KEY}", MODELIUM_MY_KEY="k")
        read("", MODELIUM_BRAIN__API_KEY_ENV="MODELIUM_MY_KEY", MODELIUM_MY_KEY="k")
        assert "MODELIUM_MY_KEY: unknown" in wrong("", MODELIUM_MY_KEY="k")[0]

    def test_errors_name_the_variable_beside_those_of_the_file(self) -> None:
        assert wrong(
            "gateway: {host: 5}",
            MODELIUM_GATEWAY__PORT="many",
            MODELIUM_VLLM__DEFAULT_SETTINGS="{a: ",
            MODELIUM_TYPO="1",
        ) == [
            "gateway.host: got 5; allowed: text (not empty)",
            'MODELIUM_GATEWAY__PORT: gateway.port: got "many"; '
            "allowed: whole number ≥ 0 and ≤ 65535",
            "MODELIUM_VLLM__DEFAULT_SETTINGS: vllm.default_settings: not YAML; "
            "allowed: mapping of text to text or number or true or false, as YAML",
            "MODELIUM_TYPO: unknown variable; docs/configuration.md lists the fields",
        ]

    def test_a_variable_below_a_section_that_is_wrong_leaves_the_files_error(self) -> None:
        assert wrong("gateway: 5", MODELIUM_GATEWAY__PORT="1")[0].startswith("gateway: got 5;")
