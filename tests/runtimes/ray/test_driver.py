"""The Ray Serve driver on a real local cluster."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from openai import AsyncOpenAI
from tritonclient.http.aio import InferenceServerClient, InferInput

from modelium.clock import SystemClock
from modelium.config import RayServe as RayServeConfig
from modelium.errors import (
    ConfigError,
    DeadlineExceeded,
    FailureKind,
    LoadFailed,
    Unavailable,
    Unsupported,
)
from modelium.models import Device, LoadSettings, ModelProfile, RuntimeName, Upstream
from modelium.ports import LoadRequest, Running
from runtimes.process import proc
from runtimes.ray.bridge import RayBridge
from runtimes.ray.cluster import LocalCluster, started
from runtimes.ray.driver import RayServe
from tests import samples
from tests.runtimes.conftest import RayHouse

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("ray"),
]

MIB = 1024**2
CPU = Device(node="n", uuid="cpu", kind="cpu", total_bytes=8192 * MIB, free_bytes=8192 * MIB)
GPU = Device(node="n", uuid="GPU-0", kind="gpu", total_bytes=8192 * MIB, free_bytes=8192 * MIB)
SOON_S = 60.0
"""Bound on what Ray does in seconds; generous, as the machine may be busy."""


def request(
    model: str, folder: Path, profile: ModelProfile, *, reserve: int = 512 * MIB, **more: Any
) -> LoadRequest:
    device = more.pop("device", CPU)
    return LoadRequest(
        model=model,
        version=1,
        path=str(folder),
        profile=profile,
        settings=more.pop("settings", LoadSettings()),
        devices=(device,),
        reserve={device.id: reserve},
        deadline_s=more.pop("deadline_s", 120.0),
        **more,
    )


def quiet(phase: str, share: float | None) -> None:
    """Progress that nobody looks at."""


async def eventually(question: Callable[[], Awaitable[Any]]) -> Any:
    """The first true answer."""
    async with asyncio.timeout(SOON_S):
        while True:
            if answer := await question():
                return answer
            await asyncio.sleep(0.05)


async def running(driver: RayServe, model: str) -> Running | None:
    found = {one.model: one for one in await driver.discover({})}
    return found.get(model)


async def infer(upstream: Upstream, tensor: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    url = f"{upstream.base_url}/v2/models/{upstream.served_name}/infer"
    document = {"inputs": [tensor], "parameters": parameters}
    async with httpx.AsyncClient(timeout=SOON_S) as client:
        answer = await client.post(url, json=document)
    assert answer.status_code == 200, answer.text
    return {output["name"]: output["data"] for output in answer.json()["outputs"]}


def texts(*given: str) -> dict[str, Any]:
    return {"name": "text", "datatype": "BYTES", "shape": [len(given)], "data": list(given)}


async def test_a_real_onnx_model_answers_as_onnxruntime_does(
    ray_house: RayHouse, tmp_path: Path
) -> None:
    import onnxruntime

    profile, phases = samples.magika_onnx(tmp_path), list[str]()
    loaded = await ray_house.driver.load(
        request("magika", tmp_path, profile), progress=lambda phase, share: phases.append(phase)
    )
    assert "deploying" in phases
    assert loaded.upstream.prefix == "/magika"
    assert loaded.upstream.apis == {"kserve", "generic"}
    status = await ray_house.driver.status()
    assert status.healthy and status.name == RuntimeName.RAY_SERVE and not status.can_sleep

    given = np.zeros((2, 2048), dtype=np.int32)
    client = InferenceServerClient(loaded.upstream.base_url.removeprefix("http://"))
    try:
        metadata = await client.get_model_metadata("magika")
        assert metadata["inputs"][0]["name"] == "bytes"
        assert await client.is_model_ready("magika")
        tensor = InferInput("bytes", [2, 2048], "INT32")
        tensor.set_data_from_numpy(given)
        answer = (await client.infer("magika", [tensor])).as_numpy("target_label")
    finally:
        await client.close()
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    np.testing.assert_allclose(answer, session.run(None, {"bytes": given})[0], atol=1e-5)

    stats = (await ray_house.driver.stats())["magika"]
    assert stats.resident_bytes and stats.resident_bytes > 10 * MIB
    await ray_house.driver.unload("magika", handle=loaded.handle, grace_s=5)


async def test_a_replica_sees_nothing_of_modeliums_secrets(
    ray_house: RayHouse, tmp_path: Path
) -> None:
    profile = samples.tiny_onnx(tmp_path)
    await ray_house.driver.load(request("nosy", tmp_path, profile), progress=quiet)
    found = await running(ray_house.driver, "nosy")
    assert found is not None
    secret = os.environ["SECRET_OF_MODELIUM"]
    assert found.pids
    assert not any(proc.carries(pid, "SECRET_OF_MODELIUM", secret) for pid in found.pids)
    await ray_house.driver.unload("nosy", handle={}, grace_s=0)


async def test_a_broken_model_fails_with_its_cause_and_leaves_nothing(
    ray_house: RayHouse, tmp_path: Path
) -> None:
    profile = samples.broken_onnx(tmp_path)
    with pytest.raises(LoadFailed, match="Protobuf parsing failed") as failed:
        await ray_house.driver.load(request("broken", tmp_path, profile), progress=quiet)
    assert failed.value.kind == FailureKind.BAD_FILES
    assert await running(ray_house.driver, "broken") is None


async def test_a_model_cannot_take_more_than_its_booking(
    ray_house: RayHouse, tmp_path: Path
) -> None:
    profile = samples.tiny_onnx(tmp_path, inputs=9000, outputs=9000)  # 324 MB
    with pytest.raises(LoadFailed) as failed:
        await ray_house.driver.load(
            request("greedy", tmp_path, profile, reserve=16 * MIB), progress=quiet
        )
    assert failed.value.kind == FailureKind.OUT_OF_MEMORY
    assert await running(ray_house.driver, "greedy") is None


async def test_a_second_load_joins_the_first(ray_house: RayHouse, tmp_path: Path) -> None:
    wanted = request("twice", tmp_path, samples.tiny_onnx(tmp_path))
    first, second = await asyncio.gather(
        *(ray_house.driver.load(wanted, progress=quiet) for _ in range(2))
    )
    assert first == second
    before = await running(ray_house.driver, "twice")
    assert await ray_house.driver.load(wanted, progress=quiet) == first
    after = await running(ray_house.driver, "twice")
    assert before is not None and after is not None
    assert before.pids == after.pids and len(after.pids) == 1
    await ray_house.driver.unload("twice", handle={}, grace_s=5)


async def test_other_settings_replace_the_application(ray_house: RayHouse, tmp_path: Path) -> None:
    wanted = request("changed", tmp_path, samples.tiny_onnx(tmp_path))
    await ray_house.driver.load(wanted, progress=quiet)
    before = await running(ray_house.driver, "changed")
    batching = replace(wanted, settings=LoadSettings(max_num_seqs=4))
    loaded = await ray_house.driver.load(batching, progress=quiet)
    after = await running(ray_house.driver, "changed")
    assert before is not None and after is not None and before.pids != after.pids
    row = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    answers = await asyncio.gather(*(infer(loaded.upstream, row) for _ in range(9)))
    assert answers == [{"y": [10, 10, 10]}] * 9
    await ray_house.driver.unload("changed", handle={}, grace_s=5)


async def test_autoscaling_is_passed_on(ray_house: RayHouse, tmp_path: Path) -> None:
    extra = {"min_replicas": 2, "max_replicas": 3, "target_ongoing_requests": 1.5}
    wanted = request(
        "scaled",
        tmp_path,
        samples.tiny_onnx(tmp_path),
        reserve=1024 * MIB,
        settings=LoadSettings(extra=extra),
    )
    await ray_house.driver.load(wanted, progress=quiet)

    async def both() -> tuple[int, ...]:
        found = await running(ray_house.driver, "scaled")
        return found.pids if found is not None and len(found.pids) == 2 else ()

    pids = await eventually(both)
    await ray_house.driver.unload("scaled", handle={}, grace_s=5)
    assert not any(started(pid) for pid in pids)


async def test_unload_waits_for_the_processes_and_may_be_repeated(
    ray_house: RayHouse, tmp_path: Path
) -> None:
    profile = samples.tiny_onnx(tmp_path)
    await ray_house.driver.load(request("going", tmp_path, profile), progress=quiet)
    found = await running(ray_house.driver, "going")
    assert found is not None and found.pids
    await ray_house.driver.unload("going", handle=found.handle, grace_s=5)
    assert not any(started(pid) for pid in found.pids)
    await ray_house.driver.unload("going", handle=found.handle, grace_s=5)
    await ray_house.driver.unload("never-was", handle={}, grace_s=5)


async def test_a_request_in_flight_is_finished_within_the_grace(
    ray_house: RayHouse, tmp_path: Path
) -> None:
    profile = samples.slow_onnx(tmp_path)
    loaded = await ray_house.driver.load(request("slow", tmp_path, profile), progress=quiet)
    tensor = {"name": "n", "datatype": "INT64", "shape": [1], "data": [3000]}
    answer = asyncio.create_task(infer(loaded.upstream, tensor))
    await eventually(lambda: busy(ray_house.driver, "slow"))
    await ray_house.driver.unload("slow", handle={}, grace_s=SOON_S)
    assert await answer == {"y": [256.0]}


async def test_a_request_that_outlasts_the_grace_is_cut_off(
    ray_house: RayHouse, tmp_path: Path
) -> None:
    profile = samples.slow_onnx(tmp_path)
    loaded = await ray_house.driver.load(request("endless", tmp_path, profile), progress=quiet)
    tensor = {"name": "n", "datatype": "INT64", "shape": [1], "data": [10**9]}
    answer = asyncio.create_task(infer(loaded.upstream, tensor))
    await eventually(lambda: busy(ray_house.driver, "endless"))
    await ray_house.driver.unload("endless", handle={}, grace_s=0.5)
    with pytest.raises((AssertionError, httpx.HTTPError)):
        await answer
    assert await running(ray_house.driver, "endless") is None


async def busy(driver: RayServe, model: str) -> bool:
    """Whether the replica computes: its processor time moves (Ray's counters lag)."""
    found = await running(driver, model)
    pid = found.pids[0] if found and found.pids else 0
    before = proc.entry(pid)
    await asyncio.sleep(0.2)
    after = proc.entry(pid)
    return bool(before and after and after.cpu_s - before.cpu_s > 0.1)


async def test_another_driver_finds_the_models_and_manages_them(
    ray_house: RayHouse, tmp_path: Path
) -> None:
    wanted = request("adopted", tmp_path, samples.tiny_onnx(tmp_path))
    loaded = await ray_house.driver.load(wanted, progress=quiet)
    async with ray_house.another_driver() as second:
        found = await running(second, "adopted")
        assert found is not None and found.state == "ready"
        assert found.upstream == loaded.upstream
        assert found.handle == loaded.handle
        assert await second.load(wanted, progress=quiet) == loaded
    row = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    assert await infer(loaded.upstream, row) == {"y": [10, 10, 10]}  # it outlived its driver
    async with ray_house.another_driver() as third:
        await third.unload("adopted", handle=loaded.handle, grace_s=5)
        assert await running(ray_house.driver, "adopted") is None
        # Leaving without any model would end the cluster; another one stays for the tests.
        await third.load(request("stays", tmp_path, wanted.profile), progress=quiet)
    await ray_house.driver.unload("stays", handle={}, grace_s=5)


async def test_a_killed_replica_is_noticed_and_comes_back(
    ray_house: RayHouse, tmp_path: Path
) -> None:
    driver = ray_house.driver
    await driver.load(request("killed", tmp_path, samples.tiny_onnx(tmp_path)), progress=quiet)
    before = await running(driver, "killed")
    assert before is not None
    os.kill(before.pids[0], signal.SIGKILL)

    async def unwell() -> bool:
        now = await running(driver, "killed")
        return now is not None and now.state != "ready"

    async def well() -> bool:
        now = await running(driver, "killed")
        return now is not None and now.state == "ready" and now.pids != before.pids

    await eventually(unwell)
    await eventually(well)
    await driver.unload("killed", handle={}, grace_s=5)


async def test_a_cancelled_load_leaves_nothing(ray_house: RayHouse, tmp_path: Path) -> None:
    deploying = asyncio.Event()
    profile = samples.tiny_onnx(tmp_path)
    load = asyncio.create_task(
        ray_house.driver.load(
            request("cancelled", tmp_path, profile),
            progress=lambda phase, share: deploying.set() if phase == "deploying" else None,
        )
    )
    await deploying.wait()
    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load
    assert await running(ray_house.driver, "cancelled") is None


async def test_an_unload_calls_a_load_off(ray_house: RayHouse, tmp_path: Path) -> None:
    deploying = asyncio.Event()
    profile = samples.tiny_onnx(tmp_path)
    load = asyncio.create_task(
        ray_house.driver.load(
            request("off", tmp_path, profile),
            progress=lambda phase, share: deploying.set() if phase == "deploying" else None,
        )
    )
    await deploying.wait()
    await ray_house.driver.unload("off", handle={}, grace_s=0)
    with pytest.raises(LoadFailed, match="unloaded while it was loading"):
        await load
    assert await running(ray_house.driver, "off") is None


async def test_resources_that_are_not_there_end_at_the_deadline(
    ray_house: RayHouse, tmp_path: Path
) -> None:
    profile = samples.tiny_onnx(tmp_path)
    with pytest.raises(DeadlineExceeded, match="within 2 s"):
        await ray_house.driver.load(
            request("nowhere", tmp_path, profile, device=GPU, deadline_s=2.0), progress=quiet
        )
    assert await running(ray_house.driver, "nowhere") is None


async def test_applications_of_others_are_left_alone(ray_house: RayHouse, tmp_path: Path) -> None:
    profile = samples.tiny_onnx(tmp_path)
    await ray_house.driver.load(request("ours", tmp_path, profile), progress=quiet)
    cluster = LocalCluster(directory=ray_house.state_directory / "ray", clock=SystemClock())
    assert cluster.adopt() and cluster.record is not None
    bridge = RayBridge(environment=cluster.environment(), directory=tmp_path)
    await bridge.start()
    try:
        await bridge.call(
            "connect",
            address=cluster.record.address,
            host="127.0.0.1",
            port=cluster.record.proxy_port,
            timeout_s=SOON_S,
        )
        options = {"name": "d", "ray_actor_options": {"num_cpus": 0}}
        spec = {
            "kind": "onnx",
            "path": str(tmp_path),
            "file": "model.onnx",
            "gpu": False,
            "memory_bytes": 512 * MIB,
            "threads": 1,
            "max_batch": 1,
            "batch_wait_s": 0,
            "model": "theirs",
            "version": 1,
        }
        await bridge.call("deploy", name="theirs", options=options, spec=spec)
        assert await running(ray_house.driver, "theirs") is None
        await ray_house.driver.unload("theirs", handle={}, grace_s=0)
        with pytest.raises(LoadFailed, match="not Modelium's"):
            await ray_house.driver.load(request("theirs", tmp_path, profile), progress=quiet)
        assert "theirs" in (await bridge.call("details"))["applications"]
        await bridge.call("delete", name="theirs")
    finally:
        await bridge.close()
    await ray_house.driver.unload("ours", handle={}, grace_s=0)


async def test_counters_move_with_requests(ray_house: RayHouse, tmp_path: Path) -> None:
    profile = samples.tiny_onnx(tmp_path)
    loaded = await ray_house.driver.load(request("counted", tmp_path, profile), progress=quiet)
    row = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    for _ in range(3):
        await infer(loaded.upstream, row)

    async def counted() -> bool:
        return (await ray_house.driver.stats())["counted"].completed == 3

    await eventually(counted)
    assert (await ray_house.driver.stats())["counted"].latency_sum_s > 0
    await ray_house.driver.unload("counted", handle={}, grace_s=5)


async def test_sentence_embeddings_over_openais_api(ray_house: RayHouse, tmp_path: Path) -> None:
    profile = samples.minilm(tmp_path)
    wanted = request(
        "minilm", tmp_path, profile, reserve=1024 * MIB, settings=LoadSettings(max_num_seqs=8)
    )
    loaded = await ray_house.driver.load(wanted, progress=quiet)
    assert "openai" in loaded.upstream.apis
    sentences = [
        "That is a happy person",
        "That is a happy dog",
        "That is a very happy person",
        "Today is a sunny day",
    ]
    async with AsyncOpenAI(base_url=f"{loaded.upstream.base_url}/v1", api_key="none") as client:
        packed = await client.embeddings.create(model="minilm", input=sentences)
        plain = await client.embeddings.create(
            model="minilm", input=sentences[1], encoding_format="float"
        )
        ids = await client.embeddings.create(
            model="minilm", input=[101, 2008, 2003, 1037, 3407, 3899, 102], encoding_format="float"
        )
    vectors = np.array([row.embedding for row in packed.data])
    # The figures on the model's card.
    np.testing.assert_allclose(vectors @ vectors[0], [1, 0.695, 0.943, 0.257], atol=1e-3)
    np.testing.assert_allclose(plain.data[0].embedding, vectors[1], atol=1e-5)
    np.testing.assert_allclose(ids.data[0].embedding, vectors[1], atol=1e-5)
    assert plain.usage.prompt_tokens == 7
    answer = await infer(loaded.upstream, texts(sentences[0]))
    np.testing.assert_allclose(answer["embedding"], vectors[0], atol=1e-5)
    await ray_house.driver.unload("minilm", handle={}, grace_s=5)


async def test_text_classification_and_generation(ray_house: RayHouse, tmp_path: Path) -> None:
    classifier = samples.tiny_classifier(tmp_path / "c")
    generator = samples.tiny_generator(tmp_path / "g")
    judge, writer = await asyncio.gather(
        ray_house.driver.load(request("judge", tmp_path / "c", classifier), progress=quiet),
        ray_house.driver.load(request("writer", tmp_path / "g", generator), progress=quiet),
    )
    answer = await infer(judge.upstream, texts("a good film", "bad"))
    assert set(answer["label"]) <= {"good", "bad"} and len(answer["label"]) == 2
    np.testing.assert_allclose(np.array(answer["scores"]).reshape(2, 2).sum(1), 1, atol=1e-5)
    greedy = {"max_new_tokens": 5, "do_sample": False}
    written = await infer(writer.upstream, texts("this is"), **greedy)
    assert "generated_text" in written["result"][0]
    assert written == await infer(writer.upstream, texts("this is"), **greedy)
    for name in ("judge", "writer"):
        await ray_house.driver.unload(name, handle={}, grace_s=5)


async def test_a_diffusers_pipeline_paints(
    ray_house: RayHouse, tmp_path: Path, replica_python: str
) -> None:
    profile = samples.tiny_diffusion(tmp_path / "sd", python=replica_python)
    painter = request("painter", tmp_path / "sd", profile, reserve=1024 * MIB)
    loaded = await ray_house.driver.load(painter, progress=quiet)
    small = {"num_inference_steps": 2, "height": 16, "width": 16, "seed": 7}
    image = np.array((await infer(loaded.upstream, texts("a cat", "a dog"), **small))["image"])
    assert image.size == 2 * 16 * 16 * 3
    assert image.min() >= 0 and image.max() <= 255 and image.std() > 1
    again = await infer(loaded.upstream, texts("a cat", "a dog"), **small)
    assert (np.array(again["image"]) == image).all(), "the same seed paints the same"
    url = f"{loaded.upstream.base_url}/v2/models/painter/infer"
    body = {"inputs": [texts("a cat")], "parameters": {"height": 100_000}}
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        refused = await client.post(url, json=body)
    assert refused.status_code == 400
    assert "height must be a whole number from 1 to 2048" in refused.text
    await ray_house.driver.unload("painter", handle={}, grace_s=5)


async def test_a_checkpoint_without_its_head_is_refused(
    ray_house: RayHouse, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    profile = samples.tiny_classifier(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LoadFailed, match="classifier") as failed:
        await ray_house.driver.load(request("headless", tmp_path, profile), progress=quiet)
    assert failed.value.kind == FailureKind.BAD_FILES


async def test_there_is_no_sleep(ray_house: RayHouse) -> None:
    with pytest.raises(Unsupported):
        await ray_house.driver.sleep("m", handle={})
    with pytest.raises(Unsupported):
        await ray_house.driver.wake("m", handle={})


async def test_a_head_that_died_is_started_again_without_applications(
    ray_house: RayHouse, tmp_path: Path
) -> None:
    driver = ray_house.driver
    wanted = request("again", tmp_path, samples.tiny_onnx(tmp_path))
    await driver.load(wanted, progress=quiet)
    cluster = LocalCluster(directory=ray_house.state_directory / "ray", clock=SystemClock())
    assert cluster.adopt() and cluster.record is not None
    for pid in cluster.record.processes:
        os.kill(pid, signal.SIGKILL)

    async def noticed() -> bool:
        return not (await driver.status()).healthy

    async def healthy() -> bool:
        return (await driver.status()).healthy

    await eventually(noticed)
    await eventually(healthy)
    assert await driver.discover({"again": {}}) == []
    assert (await driver.load(wanted, progress=quiet)).upstream.served_name == "again"
    await driver.unload("again", handle={}, grace_s=5)


async def test_a_taken_port_is_named_with_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        config = RayServeConfig(enabled=True, endpoint=f"http://localhost:{port}")
        driver = RayServe(config=config, state_directory=tmp_path, clock=SystemClock())
        async with driver:
            with pytest.raises(Unavailable, match=f"{port} of ray_serve.endpoint .* taken"):
                await driver.discover({})


@pytest.mark.parametrize("endpoint", ["https://localhost:1", "http://localhost", "localhost:80"])
async def test_an_endpoint_that_cannot_be_served_is_refused(tmp_path: Path, endpoint: str) -> None:
    config = RayServeConfig.model_construct(enabled=True, endpoint=endpoint, address=None)
    with pytest.raises(ConfigError, match=r"ray_serve\.endpoint"):
        RayServe(config=config, state_directory=tmp_path, clock=SystemClock())


async def test_a_cluster_that_is_not_there_is_reported_not_raised(tmp_path: Path) -> None:
    config = RayServeConfig(enabled=True, address="127.0.0.1:1", endpoint="http://127.0.0.1:8000")
    driver = RayServe(config=config, state_directory=tmp_path, clock=SystemClock())
    async with driver:
        with pytest.raises(Unavailable, match="cannot be reached"):
            await driver.discover({})
        status = await driver.status()
        assert not status.healthy and status.detail
        with pytest.raises(Unavailable, match="is down") as down:
            await driver.discover({})
        assert down.value.retry_after_s
