"""`modelium prefect env`: what Prefect's own command line needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelium import private
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
