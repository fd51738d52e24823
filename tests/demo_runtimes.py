"""Three real models dropped together, one per runtime; each answers through the gateway.

``python -m tests.demo_runtimes [--ci]``: `modelium.cli.demo` with the engines of `tests.engines`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from modelium.cli import tables
from modelium.cli.demo import base, console, perform, until
from modelium.config import Config
from tests import engines, samples
from tests.fakes import tiny_llama

READY_S = 400.0
"""vLLM's start was seen to take 138 s on a loaded machine."""


@dataclass(frozen=True, kw_only=True)
class Drop:
    """A model, the runtime that should serve it, and a request to it."""

    name: str
    runtime: str
    what: str
    write: Callable[[Path], object]
    path: str
    body: dict[str, Any]
    describe: Callable[[dict[str, Any]], str]
    """Returns the answer in words; raises `AssertionError` where it is wrong."""


def completion(answer: dict[str, Any]) -> str:
    tokens = answer["usage"]["completion_tokens"]
    assert tokens == 8, answer
    return f"{tokens} tokens: {answer['choices'][0]['text']!r} (its weights are random)"


def file_type(answer: dict[str, Any]) -> str:
    scores = answer["outputs"][0]["data"]
    assert abs(sum(scores) - 1) < 1e-3, answer
    return f"class {scores.index(max(scores))} of {len(scores)}, score {max(scores):.3f}"


def embeddings(answer: dict[str, Any]) -> str:
    vectors = [row["embedding"] for row in answer["data"]]

    def similarity(one: int, other: int) -> float:
        return float(sum(x * y for x, y in zip(vectors[one], vectors[other], strict=True)))

    assert similarity(0, 1) > similarity(0, 2), "a king is closer to a queen than to bread"
    return f"{len(vectors[0])} dimensions; king~queen {similarity(0, 1):.2f}, king~bread {similarity(0, 2):.2f}"


TEXT = list(b"def main():\n    print('hello')\n" * 100)[:2048]
DROPS = (
    Drop(
        name="tiny-llama",
        runtime="vllm",
        what="a 1.6 MB Llama, safetensors",
        write=tiny_llama.write,
        path="/v1/completions",
        body={"model": "tiny-llama", "prompt": "hello", "max_tokens": 8, "ignore_eos": True},
        describe=completion,
    ),
    Drop(
        name="magika",
        runtime="triton",
        what="Magika's 3 MB file type classifier, ONNX",
        write=samples.magika_onnx,
        path="/v2/models/magika/infer",
        body={"inputs": [{"name": "bytes", "datatype": "INT32", "shape": [1, 2048], "data": TEXT}]},
        describe=file_type,
    ),
    Drop(
        name="minilm",
        runtime="ray_serve",
        what="the 91 MB all-MiniLM-L6-v2, sentence-transformers",
        write=samples.minilm,
        path="/v1/embeddings",
        body={"model": "minilm", "input": ["the king", "the queen", "a loaf of bread"]},
        describe=embeddings,
    ),
)


def settings(folder: Path) -> Config:
    vllm = engines.vllm()
    vllm["default_settings"] |= {"max_model_len": 256, "max_num_seqs": 4}
    sections = {
        "vllm": vllm,
        "triton": engines.triton(folder / "triton-work"),
        "ray_serve": engines.ray_serve(torch=True),
    }
    return Config.model_validate(base(folder, idle_s=3600.0) | sections)


async def scenario(http: httpx.AsyncClient, incoming: Path) -> None:
    with tempfile.TemporaryDirectory(dir=incoming.parent) as aside:
        for drop in DROPS:
            drop.write(Path(aside) / drop.name)
        for drop in DROPS:
            os.rename(Path(aside) / drop.name, incoming / drop.name)
            console.print(f"dropped [bold]{drop.name}[/bold]: {drop.what}")
    began = time.monotonic()
    await asyncio.gather(*(_answered(http, drop, began) for drop in DROPS))
    console.print(tables.models((await http.get("/api/v1/models")).json()))


async def _answered(http: httpx.AsyncClient, drop: Drop, began: float) -> None:
    row = await until(http, drop.name, "ready", READY_S)
    assert row["runtime"] == drop.runtime, row
    answer = (await http.post(drop.path, json=drop.body)).raise_for_status().json()
    console.print(
        f"[green]{drop.name} answers[/green] on {drop.runtime} after "
        f"{time.monotonic() - began:.0f} s: {drop.describe(answer)}",
        highlight=False,
    )


if __name__ == "__main__":
    perform(settings, scenario, wait="--ci" not in sys.argv[1:])
