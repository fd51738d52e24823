from __future__ import annotations

import os
from typing import Any

import pytest

from modelium.models import LoadSettings, RuntimeName, Upstream
from modelium.models.runtimes import RUNTIMES
from modelium.ports import Loaded
from runtimes.engines.instance import EngineInstance
from runtimes.process.supervisor import EngineProcess

PROCESS = EngineProcess(model="chat@2", pid=7, started=8, boot="b", token="t")
HANDLE: dict[str, Any] = {"host": "127.0.0.1", "port": "8100"}


def restored(**changes: object) -> EngineInstance:
    return EngineInstance.restore(RuntimeName.VLLM, PROCESS, HANDLE | changes)


def test_an_instance_is_what_its_handle_says() -> None:
    found = restored(api_key="k", devices=["n/GPU-a", "n/cpu"])
    assert found.process == PROCESS
    assert found.model == "chat@2"
    assert found.upstream == Upstream(
        host="127.0.0.1",
        port=8100,
        served_name="chat",
        apis=RUNTIMES[RuntimeName.VLLM].apis,
        api_key="k",
        user=os.getuid(),
    )
    assert found.devices == ("n/GPU-a", "n/cpu")
    assert found.gpus == ("n/GPU-a",)


def test_what_a_handle_does_not_say_is_unknown() -> None:
    found = restored()
    assert found.upstream.api_key is None
    assert (found.devices, found.gpus) == ((), ())


@pytest.mark.parametrize(
    ("handle", "settings"),
    [
        ({}, None),
        ({"reduced": False, "settings": {"max_num_seqs": 4}}, None),
        ({"reduced": True, "settings": {"max_num_seqs": 4}}, LoadSettings(max_num_seqs=4)),
        ({"reduced": True}, LoadSettings()),
    ],
)
def test_settings_that_were_reduced_are_told(
    handle: dict[str, Any], settings: LoadSettings | None
) -> None:
    found = restored(**handle)
    assert found.loaded() == Loaded(
        upstream=found.upstream, handle=HANDLE | handle, settings=settings
    )
