"""A very large model costs the analyzer its headers and nothing else."""

import math
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from modelium.analysis import analyze, inspect_files, is_complete
from tests.modelium.analysis.files import LLAMA, write_json, write_safetensors

SHARDS = 100
TENSORS = 300
SIDE = 3424
"""100 shards of 300 matrices of 3424² in bfloat16: 703 GB."""


@pytest.fixture
def huge(tmp_path: Path) -> Path:
    weight_map: dict[str, Any] = {}
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        names = [f"model.layers.0.mlp.experts.{shard}.{i}.weight" for i in range(TENSORS)]
        write_safetensors(tmp_path / file, {name: ("BF16", (SIDE, SIDE)) for name in names})
        weight_map |= dict.fromkeys(names, file)
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": weight_map})
    write_json(tmp_path / "config.json", LLAMA)
    return tmp_path


def read_bytes() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def test_only_headers_of_700_gigabytes_are_read(huge: Path) -> None:
    headers = sum(
        8 + int.from_bytes(f.open("rb").read(8), "little") for f in huge.glob("*.safetensors")
    )
    other = sum(f.stat().st_size for f in huge.glob("*.json"))
    tracemalloc.start()
    before = read_bytes()
    inspect_files(huge)
    profile = analyze(huge)
    assert is_complete(huge) is None
    read = read_bytes() - before
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert profile.weight_bytes == SHARDS * TENSORS * math.prod((SIDE, SIDE)) * 2 > 700e9
    assert peak < 100 * 1024**2
    # Headers twice (profile, wholeness), configuration and index by each of the three.
    assert read < 3 * (headers + other) + 16 * 1024**2
