"""Measures the inspection of a very large model: 100 shards, 700 GB, sparse files, real headers.

Run from the repository root: ``python -m bench.inspection``. Each step runs in a separate process,
like ``modelium analyze``, and its imports count; the goal is under 2 s and under 200 MB. The last
lines compare the slowest and the largest step with it.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.goals import Goal, print_goals

SHARDS, TENSORS, SIDE = 100, 300, 3424
CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 4096,
    "num_hidden_layers": 94, "num_attention_heads": 64, "num_key_value_heads": 4,
    "head_dim": 128, "intermediate_size": 12288, "moe_intermediate_size": 1536,
    "num_experts": 128, "num_experts_per_tok": 8, "vocab_size": 151936,
    "max_position_embeddings": 40960, "torch_dtype": "bfloat16",
}  # fmt: skip
STEPS = {
    "inspect_files": "from modelium.analysis import inspect_files as step",
    "is_complete": "from modelium.analysis import is_complete as step",
    "examine": "from modelium.analysis import examine as step",
    "analyze": "from modelium.analysis import analyze as step",
}
PROBE = """
import resource, sys, time
from pathlib import Path
begin = time.perf_counter()
{load}
loaded = time.perf_counter()
step(Path(sys.argv[1]))
ended = time.perf_counter()
usage = resource.getrusage(resource.RUSAGE_SELF)
print(f"{{loaded - begin:6.2f}} {{ended - loaded:6.2f}} {{usage.ru_utime + usage.ru_stime:6.2f}} "
      f"{{usage.ru_maxrss / 1024:6.0f}}")
"""


def make(folder: Path) -> int:
    """Write the model; return its apparent bytes."""
    size = SIDE * SIDE * 2
    weight_map: dict[str, str] = {}
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        header = {
            f"model.layers.{shard % 94}.mlp.experts.{shard}.{i}.weight": {
                "dtype": "BF16", "shape": [SIDE, SIDE], "data_offsets": [i * size, (i + 1) * size],
            }
            for i in range(TENSORS)
        }  # fmt: skip
        data = json.dumps(header).encode()
        with (folder / file).open("wb") as out:
            out.write(struct.pack("<Q", len(data)) + data)
            out.truncate(8 + len(data) + TENSORS * size)
        weight_map |= dict.fromkeys(header, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return SHARDS * TENSORS * size


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        total = make(Path(name))
        print(f"{SHARDS} shards, {SHARDS * TENSORS} tensors, {total / 1e9:.0f} GB")
        print(f"{'step':16} {'import s':>8} {'step s':>7} {'CPU s':>6} {'MiB':>6}")
        seconds, megabytes = [], []
        for step, load in STEPS.items():
            done = subprocess.run(
                [sys.executable, "-c", PROBE.format(load=load), name],
                capture_output=True, text=True, check=True, timeout=300,
            )  # fmt: skip
            print(f"{step:16}   {done.stdout.rstrip()}", flush=True)
            imported, took, _cpu, mib = map(float, done.stdout.split())
            seconds.append(imported + took)
            megabytes.append(mib * 1024**2 / 1e6)
    print_goals(
        Goal(name="slowest-step", measured=max(seconds), relation="<", required=2, unit="s"),
        Goal(name="largest-step", measured=max(megabytes), relation="<", required=200, unit="MB"),
    )


if __name__ == "__main__":
    main()
