"""The HTTP API of a replica, with a real ONNX session and without a cluster."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtimes.ray.replica.batcher import Batcher
from runtimes.ray.replica.http_api import HttpApi, infer_many
from runtimes.ray.replica.onnx import OnnxModel
from runtimes.ray.replica.tensors import Array, BadRequest
from tests import samples


def onnx_model(folder: Path, **arguments: Any) -> OnnxModel:
    samples.tiny_onnx(folder, **arguments)
    return OnnxModel(path=folder / "model.onnx", gpu=False, memory_bytes=0, threads=1)


def face(model: OnnxModel, *, max_batch: int = 1) -> HttpApi:
    return HttpApi(model=model, name="m", version="3", max_batch=max_batch, batch_wait_s=0.2)


async def ask(
    api: HttpApi, method: str, path: str, document: Any = None, **headers: str
) -> tuple[int, Any]:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    status, body, _ = await api.handle(method, path, headers, raw)
    return status, json.loads(body)


def tensor(*rows: list[float]) -> dict[str, Any]:
    data = {"name": "x", "datatype": "FP32", "shape": [len(rows), 4], "data": list(rows)}
    return {"inputs": [data]}


async def test_the_routes_of_kserve_v2(tmp_path: Path) -> None:
    this = face(onnx_model(tmp_path))
    assert await ask(this, "GET", "/v2/health/live") == (200, {"live": True})
    assert await ask(this, "GET", "/v2/health/ready") == (200, {"ready": True})
    assert await ask(this, "GET", "/v2/models/m/ready") == (200, {"name": "m", "ready": True})
    status, metadata = await ask(this, "GET", "/v2/models/m")
    assert status == 200
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert metadata["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}]
    assert metadata["versions"] == ["3"]
    for path in ("/v2/models/m/infer", "/v2/models/m/versions/3/infer"):
        status, answer = await ask(this, "POST", path, tensor([1, 2, 3, 4]))
        assert status == 200
        assert answer["outputs"][0]["data"] == [10, 10, 10]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/m/versions/9", 404),
        ("GET", "/v2/models/m/infer", 404),
        ("DELETE", "/v2/models/m", 405),
        ("POST", "/v1/embeddings", 404),
    ],
)
async def test_other_routes_are_refused_in_the_apis_own_shape(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    got, answer = await ask(face(onnx_model(tmp_path)), method, path, {})
    assert got == status
    message = answer["error"]["message"] if path.startswith("/v1") else answer["error"]
    assert isinstance(message, str) and message


async def test_bad_input_is_the_clients_fault(tmp_path: Path) -> None:
    this = face(onnx_model(tmp_path))
    assert (await ask(this, "POST", "/v2/models/m/infer", b"{"))[0] == 400
    assert (await ask(this, "POST", "/v2/models/m/infer", tensor([1, 2])))[0] == 400
    encoded = {"content-encoding": "gzip"}
    assert (await ask(this, "POST", "/v2/models/m/infer", b"", **encoded))[0] == 415


async def test_requests_that_come_together_run_as_one_batch(tmp_path: Path) -> None:
    model, batches = onnx_model(tmp_path), []
    run = model.infer

    def infer(tensors: dict[str, Array], parameters: dict[str, Any]) -> dict[str, Array]:
        batches.append(len(tensors["x"]))
        return run(tensors, parameters)

    model.infer = infer  # type: ignore[method-assign]  # counts, then does the real thing
    this = face(model, max_batch=4)
    rows = [[float(i)] * 4 for i in range(4)]
    answers = await asyncio.gather(
        *(ask(this, "POST", "/v2/models/m/infer", tensor(row)) for row in rows)
    )
    assert [answer["outputs"][0]["data"][0] for _, answer in answers] == [0, 4, 8, 12]
    assert max(batches) > 1


def test_requests_of_different_shapes_do_not_affect_each_other() -> None:
    class Doubling:
        platform, inputs, outputs, batches = "test", (), (), True

        def infer(self, tensors: dict[str, Array], parameters: Any) -> dict[str, Array]:
            if (tensors["x"] < 0).any():
                raise BadRequest("negative")
            return {"y": tensors["x"] * 2}

    requests = [
        {"x": np.ones((1, 2))},
        {"x": np.ones((2, 3))},
        {"x": -np.ones((1, 2))},
        {"x": np.full((3, 2), 5.0)},
    ]
    answers = infer_many(Doubling(), requests)
    assert isinstance(answers[2], BadRequest)
    good = [answer["y"] for answer in answers if not isinstance(answer, Exception)]
    assert [array.shape for array in good] == [(1, 2), (2, 3), (3, 2)]
    assert good[2].tolist() == [[10.0, 10.0]] * 3


async def test_a_batch_neither_waits_for_more_than_its_size_nor_forever() -> None:
    batches: list[list[int]] = []

    async def run(items: list[int]) -> list[int]:
        batches.append(items)
        return [item * 2 for item in items]

    full = Batcher(run=run, size=2, wait_s=3600.0)
    assert await asyncio.gather(*(full.put(i) for i in range(4))) == [0, 2, 4, 6]
    assert batches == [[0, 1], [2, 3]]
    alone = Batcher(run=run, size=100, wait_s=0.01)
    assert await alone.put(7) == 14


async def test_a_failed_batch_fails_all_of_it_and_nothing_after() -> None:
    async def run(items: list[int]) -> list[int]:
        if 0 in items:
            raise MemoryError("too much")
        return items

    batcher = Batcher(run=run, size=2, wait_s=0.01)
    outcomes = await asyncio.gather(batcher.put(0), batcher.put(1), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [MemoryError, MemoryError]
    assert await batcher.put(2) == 2


async def test_a_caller_that_has_gone_is_left_out_of_the_batch() -> None:
    batches: list[list[int]] = []

    async def run(items: list[int]) -> list[int]:
        batches.append(items)
        return items

    batcher = Batcher(run=run, size=2, wait_s=3600.0)
    gone = asyncio.create_task(batcher.put(1))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert await batcher.put(2) == 2
    assert batches == [[2]]


def test_string_tensors_reach_the_graph_as_text(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Identity", ["t"], ["u"])],
        "text",
        [helper.make_tensor_value_info("t", TensorProto.STRING, ["n"])],
        [helper.make_tensor_value_info("u", TensorProto.STRING, ["n"])],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "m.onnx")
    model = OnnxModel(path=tmp_path / "m.onnx", gpu=False, memory_bytes=0, threads=1)
    given = np.array([b"a", "ö".encode()], dtype=np.object_)
    assert model.infer({"t": given}, {})["u"].tolist() == ["a", "ö"]
    with pytest.raises(BadRequest, match="UTF-8"):
        model.infer({"t": np.array([b"\xff"], dtype=np.object_)}, {})


async def test_a_lack_of_memory_without_words_is_named(tmp_path: Path) -> None:
    model = onnx_model(tmp_path)

    def infer(tensors: dict[str, Array], parameters: dict[str, Any]) -> dict[str, Array]:
        raise MemoryError

    model.infer = infer  # type: ignore[method-assign]  # the machine's lack of memory
    status, answer = await ask(face(model), "POST", "/v2/models/m/infer", tensor([1, 2, 3, 4]))
    assert (status, answer["error"]) == (507, "not enough memory for this request: MemoryError")
