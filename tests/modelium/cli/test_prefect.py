"""`modelium prefect env`: what Prefect's own command line needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from modelium import private
from modelium.cli.main import main
from modelium.cli.prefect import variables
from modelium.config import Config
from modelium.control import addresses
from modelium.errors import InputError


def config(folder: Path, **prefect: Any) -> Config:
    return Config.model_validate(
        {"orchestration": {"state_directory": str(folder)}, "prefect": prefect}
    )


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING", raising=False)


def test_the_running_services_address_and_credentials_are_told(tmp_path: Path) -> None:
    settings = config(tmp_path)
    auth = private.credentials(settings.prefect_credentials(), user="modelium")
    assert variables(settings) == {
        "PREFECT_API_URL": "http://127.0.0.1:4200/api",
        "PREFECT_API_AUTH_STRING": auth,
    }
    addresses.write(tmp_path, {"prefect_api": "http://127.0.0.1:4321/api"})
    assert variables(settings)["PREFECT_API_URL"] == "http://127.0.0.1:4321/api"


def test_credentials_of_ones_own_choice_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "me:s3cret")
    assert variables(config(tmp_path))["PREFECT_API_AUTH_STRING"] == "me:s3cret"


def test_a_server_of_others_never_gets_ours(tmp_path: Path) -> None:
    settings = config(tmp_path, api_url="https://prefect.example/api")
    private.credentials(settings.prefect_credentials(), user="modelium")
    assert variables(settings) == {"PREFECT_API_URL": "https://prefect.example/api"}


def test_without_prefect_there_is_nothing_to_tell(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no Prefect server"):
        variables(config(tmp_path, enabled=False))


def test_before_the_first_start_it_is_told_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is on standard output is run by the shell."""
    file = tmp_path / "modelium.yaml"
    file.write_text(
        f"orchestration: {{state_directory: {tmp_path / 'state'}}}\nllama_cpp: {{enabled: true}}\n"
    )
    monkeypatch.setattr(sys, "argv", ["modelium", "prefect", "env", "--config", str(file)])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (1, "")
    assert "start it with `modelium up`" in told.err


def test_a_service_on_a_server_of_others_has_no_credentials(tmp_path: Path) -> None:
    addresses.write(tmp_path, {"prefect_api": "https://prefect.example/api"})
    assert variables(config(tmp_path)) == {"PREFECT_API_URL": "https://prefect.example/api"}
