"""One model over several nodes: each part is started, watched and ended like a whole engine."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from modelium.config import Vllm as VllmSection
from modelium.errors import FailureKind, LoadFailed
from modelium.models import Device, LoadSettings
from modelium.ports import Loaded, LoadRequest, Span
from runtimes.engines.driver import EngineDriver
from runtimes.process.ports import free_port
from runtimes.vllm.driver import vllm_driver
from runtimes.vllm.recipe import VllmRecipe
from tests.runtimes.conditions import until
from tests.runtimes.fake_vllm import Brisk, Make, complete, model, starts, words
from tests.runtimes.requests import CPU, Inventory, no_progress, request

HOST = "127.0.0.1"
PIPELINE = LoadSettings(pipeline_parallel_size=2)


def span(rank: int, port: int = 29_501, **changes: object) -> Span:
    return replace(Span(rank=rank, addresses=(HOST, HOST), port=port, interface="lo"), **changes)  # type: ignore[arg-type]


def part(path: Path, rank: int, port: int, settings: LoadSettings = PIPELINE) -> LoadRequest:
    return replace(request(path, settings=settings), span=span(rank, port))


def command_of(rank: int, *, devices: tuple[Device, ...] = (CPU,), **settings: int) -> list[str]:
    recipe = VllmRecipe(config=VllmSection(), executable="vllm")
    asked = request(Path("/m"), devices=devices, settings=LoadSettings(**settings))  # type: ignore[arg-type]
    made = recipe.command(replace(asked, span=span(rank)), host=HOST, port=8100, key="k")
    return [" ".join(made.argv), *(f"{k}={v}" for k, v in made.environment.items())]


def test_each_part_knows_its_rank_and_where_they_meet_and_only_the_first_serves() -> None:
    first, second = (command_of(rank, pipeline_parallel_size=2) for rank in (0, 1))
    where = "--pipeline-parallel-size 2 --nnodes 2 --node-rank {} --master-addr 127.0.0.1 "
    assert where.format(0) + "--master-port 29501" in first[0]
    assert where.format(1) + "--master-port 29501" in second[0]
    assert "--headless" not in first[0]
    assert "--headless" in second[0]


def test_the_parts_talk_over_the_interface_of_the_nodes_address() -> None:
    _, *environment = command_of(1, pipeline_parallel_size=2)
    assert {
        "VLLM_HOST_IP=127.0.0.1", "GLOO_SOCKET_IFNAME=lo", "NCCL_SOCKET_IFNAME==lo",
    } <= set(environment)  # fmt: skip


def test_the_devices_of_all_nodes_together_are_what_the_model_is_split_over() -> None:
    pair = (CPU, CPU.model_copy(update={"uuid": "other"}))
    assert command_of(0, devices=pair, tensor_parallel_size=2, pipeline_parallel_size=2)
    assert command_of(0, tensor_parallel_size=2)
    with pytest.raises(LoadFailed, match=r"× pipeline_parallel_size 2 needs as many .* 2 nodes"):
        command_of(0, devices=pair, tensor_parallel_size=1, pipeline_parallel_size=2)


class Pair:
    """Two nodes in one process: each driver has its own state, as each machine has."""

    def __init__(self, make: Make, folder: Path) -> None:
        self._make, self._folder = make, folder
        self.first = make()
        (folder / "other").mkdir()
        self.second = self.restarted()
        self.port = free_port(HOST) or 0

    def restarted(self) -> EngineDriver:
        """Return the driver of the second node, as after a restart of its service."""
        return vllm_driver(
            config=VllmSection(
                enabled=True, executable=str(self._folder / "vllm-command"), base_port=0
            ),
            state_directory=self._folder / "other",
            clock=Brisk(),
            devices=Inventory(),
        )

    async def load(self, path: Path) -> list[Loaded]:
        both = (self.first, self.second)
        return await asyncio.gather(
            *(
                driver.load(part(path, rank, self.port), progress=no_progress)
                for rank, driver in enumerate(both)
            )
        )


@pytest.fixture
async def pair(make: Make, tmp_path: Path) -> Pair:
    return Pair(make, tmp_path)


async def test_a_model_over_two_nodes_answers_at_the_first_one(pair: Pair, tmp_path: Path) -> None:
    path = model(tmp_path)
    first, second = await pair.load(path)
    try:
        assert (await complete(first)).status_code == 200
        assert second.upstream is None
        assert len(starts(path)) == 2
        (found,) = await pair.second.discover({"m": second.handle})
        assert (found.state, found.upstream) == ("ready", None)
        assert await pair.second.stats() == {}
        assert await pair.second.check("m", handle=second.handle) == ""
    finally:
        await pair.second.unload("m", handle={}, grace_s=5)
    assert await pair.second.discover({}) == []


async def test_a_part_is_found_again_after_a_restart(pair: Pair, tmp_path: Path) -> None:
    path = model(tmp_path)
    await pair.load(path)
    later = pair.restarted()
    try:
        (found,) = await later.discover({})
        assert (found.model, found.state, found.own) == ("m", "ready", True)
        again = await later.load(part(path, 1, pair.port), progress=no_progress)
        assert again.handle["pid"] == found.handle["pid"]
    finally:
        await later.unload("m", handle={}, grace_s=0)


async def test_a_part_is_unhealthy_once_the_one_that_answers_is_gone(
    pair: Pair, tmp_path: Path
) -> None:
    path = model(tmp_path)
    first, second = await pair.load(path)
    try:
        os.killpg(first.handle["pid"], signal.SIGKILL)

        async def noticed() -> bool:
            (found,) = await pair.second.discover({"m": second.handle})
            return "is not connected to the part that answers" in found.detail

        await until(noticed)
    finally:
        await pair.second.unload("m", handle={}, grace_s=0)


async def test_a_part_that_met_others_elsewhere_is_started_again(
    pair: Pair, tmp_path: Path
) -> None:
    path = model(tmp_path)
    _, second = await pair.load(path)
    try:
        pair.port = free_port(HOST) or 0
        _, again = await pair.load(path)
        assert again.handle["pid"] != second.handle["pid"]
        assert f"--master-port {pair.port}" in words(starts(path)[-1])
    finally:
        await pair.second.unload("m", handle={}, grace_s=0)


async def test_an_address_that_this_machine_does_not_have_is_refused(
    make: Make, tmp_path: Path
) -> None:
    path = model(tmp_path)
    elsewhere = replace(part(path, 1, 1), span=span(1, addresses=(HOST, "192.0.2.77")))
    with pytest.raises(LoadFailed, match=r"192\.0\.2\.77.*gateway\.advertise") as failed:
        await make().load(elsewhere, progress=no_progress)
    assert failed.value.kind is FailureKind.ENVIRONMENT


async def test_a_part_that_lacks_memory_does_not_start_with_other_settings_than_the_others(
    make: Make, tmp_path: Path
) -> None:
    path = model(tmp_path, oom_starts=1)
    with pytest.raises(LoadFailed) as failed:
        await make().load(part(path, 1, 1), progress=no_progress)
    assert failed.value.kind is FailureKind.OUT_OF_MEMORY
    assert len(starts(path)) == 1
