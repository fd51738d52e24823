"""Record the KV pools that vLLM itself asks for, for the tests of our arithmetic.

    $(tools/env.sh vllm)/bin/python tools/record_kv_pools.py FOLDER > tests/data/kv_pools.json
    $(tools/env.sh vllm)/bin/python tools/record_kv_pools.py --again POOLS.json NAME...

FOLDER: configurations of public models, ``*.json``, and ``SOURCES.csv``. ``--again`` prints the
rows of some recorded models as the installed vLLM computes them now.

Runs in vLLM's environment. Models are built on the "meta" device, without weights: their layers
then tell what they cache, and vLLM's own functions what a request of full length needs. Blocks have
16 tokens and steps overlap, as on a GPU. Configurations that this vLLM cannot build are left out.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

TOKENS = (4096, 32768, 131072)
BATCHED = (2048, 8192, 16384)
STUB = """
import importlib.machinery, sys, types

class Meta(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return name

def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return Meta(name, (), {"__init__": lambda self, *a, **k: None})

class Module(types.ModuleType):
    __path__ = []
    __getattr__ = staticmethod(__getattr__)

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.startswith("torchvision."):
            return importlib.machinery.ModuleSpec(name, Finder, is_package=True)
    @staticmethod
    def create_module(spec):
        return Module(spec.name)
    @staticmethod
    def exec_module(module):
        pass

sys.meta_path.insert(0, Finder)
__version__ = "0.0"
"""
"""A torchvision of names alone, which multimodal models import and the environment lacks."""


def bare(config: dict[str, Any]) -> dict[str, Any]:
    """Return ``config`` without quantization of the weights, which the KV cache does not follow."""
    left = {k: v for k, v in config.items() if k not in ("quantization_config", "auto_map")}
    return {k: bare(v) if isinstance(v, dict) else v for k, v in left.items()}


def pool(config: dict[str, Any]) -> tuple[int, list[tuple[int, int, int, int]]]:
    """Return the longest context, and rows of context, batched tokens, bytes needed, block."""
    import torch
    import vllm.distributed as parallel
    from vllm.config import set_current_vllm_config
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.core import kv_cache_utils
    from vllm.v1.kv_cache_interface import AttentionSpec

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config))
        arguments = EngineArgs(
            model=folder, skip_tokenizer_init=True, load_format="dummy", enforce_eager=True,
            block_size=16, max_num_batched_tokens=8192, max_num_seqs=256, dtype="bfloat16",
        )  # fmt: skip
        engine = arguments.create_engine_config(UsageContext.OPENAI_API_SERVER)
        engine.scheduler_config.async_scheduling = True
        with set_current_vllm_config(engine):
            if not torch.distributed.is_initialized():
                address = f"file://{tempfile.mkdtemp()}/rendezvous"
                parallel.init_distributed_environment(1, 0, address, 0, backend="gloo")
            parallel.parallel_state.destroy_model_parallel()
            parallel.initialize_model_parallel(1, 1)
            with torch.device("meta"):
                initialize_model(engine)
            current_platform.update_block_size_for_backend(engine)
            layers = engine.compilation_config.static_forward_context
            specs = {
                name: spec
                for name, layer in layers.items()
                if isinstance(layer, AttentionLayerBase)
                and (spec := layer.get_kv_cache_spec(engine)) is not None
            }
    block = engine.cache_config.block_size
    for name, spec in specs.items():
        # The CPU's kernels want larger blocks for layers with a window.
        if isinstance(spec, AttentionSpec) and spec.block_size != block:
            specs[name] = dataclasses.replace(spec, block_size=block)
    engine.cache_config.kv_cache_layout = "LBHNC"
    groups = kv_cache_utils.get_kv_cache_groups(engine, dict(specs))
    longest = engine.model_config.max_model_len
    rows = []
    for tokens in sorted({min(tokens, longest) for tokens in TOKENS}) if groups else ():
        for batched in BATCHED:
            engine.model_config.max_model_len = tokens
            engine.scheduler_config.max_num_batched_tokens = batched
            needed = kv_cache_utils._max_memory_usage_bytes_from_groups(engine, groups)
            size = kv_cache_utils._pool_bytes_per_block(engine, groups)
            rows.append((tokens, batched, needed, size))
    return longest, rows


def record(folder: Path) -> dict[str, Any]:
    """Return what vLLM needs for each configuration in ``folder`` that it can build."""
    with (folder / "SOURCES.csv").open(newline="") as table:
        sources = {row["file"]: row for row in csv.DictReader(table)}
    found = {}
    for file in sorted(folder.glob("*.json")):
        config = bare(json.loads(file.read_text()))
        try:
            _longest, rows = pool(config)
        except Exception as exc:
            print(f"{file.name}: {type(exc).__name__}", file=sys.stderr)
            continue
        if rows:
            found[file.stem] = {
                "source": sources.get(file.name, {}), "config": config, "rows": rows,
            }  # fmt: skip
    return found


def main() -> None:
    """Print one JSON object, by configuration."""
    stubs = tempfile.mkdtemp()
    package = Path(stubs, "torchvision")
    package.mkdir()
    (package / "__init__.py").write_text(STUB)
    sys.path.insert(0, stubs)
    os.environ |= {
        "PYTHONPATH": stubs, "HF_HUB_OFFLINE": "1", "VLLM_CONFIGURE_LOGGING": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }  # fmt: skip
    with contextlib.redirect_stdout(sys.stderr):
        if sys.argv[1] == "--again":
            known = json.loads(Path(sys.argv[2]).read_text())
            found = {name: pool(known[name]["config"])[1] for name in sys.argv[3:]}
        else:
            found = record(Path(sys.argv[1]))
    json.dump(found, sys.stdout, separators=(",", ":"))
    print()


if __name__ == "__main__":
    main()
