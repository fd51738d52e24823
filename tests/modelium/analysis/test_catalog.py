"""What installed engines can serve is read from their files; nothing of them runs."""

import os
from pathlib import Path

from modelium.analysis import read_catalog
from modelium.analysis.catalog import known_architectures

REGISTRY = """
raise SystemExit("this module must never be imported")
_TEXT_GENERATION_MODELS = {
    "LlamaForCausalLM": ("llama", "LlamaForCausalLM"),
    "NewForCausalLM": ("new", "NewForCausalLM"),
}
_EMBEDDING_MODELS = {
    "BertModel": ("bert", "BertEmbeddingModel"),
    **{k: v for k, v in _TEXT_GENERATION_MODELS.items()},
}
_SPECULATIVE_DECODING_MODELS = {"EagleLlamaForCausalLM": ("x", "y")}
_PREVIOUSLY_SUPPORTED_MODELS = {"GoneForCausalLM": "0.9.2"}
"""


def environment(root: Path, registry: str) -> Path:
    site = root / "lib" / "python3.11" / "site-packages"
    models = site / "vllm" / "model_executor" / "models"
    models.mkdir(parents=True)
    (models / "registry.py").write_text(registry)
    (site / "vllm-0.19.0.dist-info").mkdir()
    (root / "bin").mkdir()
    (root / "bin" / "vllm").write_text("#!/bin/false")
    return root / "bin" / "vllm"


def test_the_engines_own_list_is_used(tmp_path: Path) -> None:
    catalog = read_catalog(vllm=environment(tmp_path, REGISTRY))
    assert catalog.vllm_version == "0.19.0"
    assert catalog.architectures == {"LlamaForCausalLM", "NewForCausalLM", "BertModel"}


def test_an_upgraded_engine_is_read_again(tmp_path: Path) -> None:
    command = environment(tmp_path, REGISTRY)
    read_catalog(vllm=command)
    registry = next(tmp_path.rglob("registry.py"))
    registry.write_text('_TEXT_GENERATION_MODELS = {"OtherForCausalLM": ("a", "b")}')
    os.utime(registry, (1, 1))
    assert read_catalog(vllm=command).architectures == {"OtherForCausalLM"}


def test_an_engine_that_cannot_be_understood_leaves_the_shipped_list(tmp_path: Path) -> None:
    catalog = read_catalog(vllm=environment(tmp_path, "this is ( no python"))
    assert catalog.vllm_architectures is None
    assert catalog.architectures == known_architectures() >= {"LlamaForCausalLM", "BertModel"}
    assert read_catalog(vllm=tmp_path / "gone" / "bin" / "vllm").vllm_version == ""


def test_a_replicas_environment_is_looked_into(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    for module in ("torch", "diffusers"):
        (site / module).mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    assert read_catalog(ray_python=tmp_path / "bin" / "python").ray_modules == {
        "torch",
        "diffusers",
    }


def test_this_environment_serves_onnx() -> None:
    assert "onnxruntime" in read_catalog().ray_modules
