"""Finding the file, reading its YAML, and where values come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelium.config.loading import load, load_effective
from modelium.errors import ConfigError
from tests.modelium.config.reading import read, wrong


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
        with pytest.raises(ConfigError, match=r"cannot read it"):
            load(Path(), {})


class TestYaml:
    def test_broken_yaml_names_the_place_but_not_the_line_that_may_hold_a_secret(self) -> None:
        (line,) = wrong("gateway:\n  token: s3cret: oops\n")

        assert line.startswith("m.yaml:2:16: not YAML: ")
        assert "s3cret" not in line

    def test_a_key_given_twice_is_an_error(self) -> None:
        assert wrong("gateway:\n  port: 1\n  port: 2\n") == [
            "m.yaml:3:3: not YAML: duplicate key port"
        ]

    def test_python_objects_are_not_built(self) -> None:
        assert "not YAML" in wrong("gateway: !!python/object/apply:os.getcwd []")[0]

    def test_bytes_that_are_no_text_are_an_error(self) -> None:
        Path("m.yaml").write_bytes(b"\xff\xfe\xff")
        with pytest.raises(ConfigError, match="UTF-8"):
            load(Path("m.yaml"), {})

    def test_a_list_at_the_top_is_an_error(self) -> None:
        assert wrong("- gateway") == [
            "contains a list; allowed: a mapping with the sections orchestration, devices, ingest, "
            "repository, triton, vllm, ray_serve, llama_cpp, sandbox, gateway, prefect, store, "
            "brain, logging, teams, models"
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


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("1h", 3600), ("90s", 90), ("1.5m", 90), ("2min", 120), ("7d", 604800), ("0s", 0), (5, 5)],
)
def test_durations_may_have_a_unit(written: object, seconds: float) -> None:
    text = f"orchestration: {{policies: {{auto_unload_after_seconds: {written}}}}}"

    assert read(text).config.orchestration.policies.auto_unload_after_seconds == seconds
    assert (
        read(
            "gateway: {}", MODELIUM_ORCHESTRATION__POLICIES__AUTO_UNLOAD_AFTER_SECONDS=str(written)
        ).config.orchestration.policies.auto_unload_after_seconds
        == seconds
    )


def test_days_may_have_another_unit() -> None:
    assert read("prefect: {retention_days: 12h}").config.prefect.retention_days == 0.5


@pytest.mark.parametrize("written", ["1y", "h", "-1h", "1h30m", "'5'"])
def test_what_is_no_duration_is_an_error_that_shows_one(written: str) -> None:
    (line,) = wrong(f"gateway: {{max_wait_seconds: {written}}}")

    assert "a duration (90s, 30m, 1h, 7d)" in line


@pytest.mark.parametrize("written", ["0s", "0.0h"])
def test_an_interval_is_not_zero_in_any_unit(written: str) -> None:
    (line,) = wrong(f"orchestration: {{metrics: {{collection_interval_seconds: {written}}}}}")

    assert "number > 0" in line
