from __future__ import annotations

from pathlib import Path

from modelium.analysis import EngineCatalog, analyze
from modelium.models import ModelFormat, RuntimeName, Task
from tests.modelium.analysis.files import (
    supported,
    write_json,
    write_safetensors,
)


def diffusers_folder(folder: Path) -> Path:
    write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "safety_checker": [None, None],
        },
    )
    for name, size in (("unet", 100), ("vae", 20), ("text_encoder", 30)):
        write_json(folder / name / "config.json", {"_class_name": name})
        write_safetensors(folder / name / "model.safetensors", {"w": ("F32", (size,))})
        write_safetensors(folder / name / "model.fp16.safetensors", {"w": ("F16", (size,))})
    return folder


def test_a_pipeline_is_refused_for_what_the_replicas_lack(tmp_path: Path) -> None:
    folder = diffusers_folder(tmp_path / "stable-diffusion")
    without = EngineCatalog(ray_modules=frozenset({"onnxruntime", "torch", "transformers"}))
    refused = {s.runtime.value: s.reason for s in analyze(folder, engines=without).runtimes}
    assert refused == {
        "vllm": "vLLM serves transformers folders, not diffusers",
        "triton": "no Triton backend serves diffusers folders",
        "ray_serve": "the replicas' environment has no diffusers: "
        "set ray_serve.python to an interpreter that has it",
        "llama_cpp": "llama.cpp serves GGUF files only",
    }
    having = EngineCatalog(ray_modules=without.ray_modules | {"diffusers"})
    assert analyze(folder, engines=having).support(RuntimeName.RAY_SERVE).supported


def test_a_diffusers_folder_is_sized_by_component(tmp_path: Path) -> None:
    profile = analyze(diffusers_folder(tmp_path / "m"))
    assert (profile.format, profile.task) == (ModelFormat.DIFFUSERS, Task.TEXT_TO_IMAGE)
    assert profile.architecture == "StableDiffusionPipeline"
    assert profile.weight_bytes == 600
    assert profile.details["components"]["unet"] == {"class": "UNet2DConditionModel", "bytes": 400}
    ray = profile.support(RuntimeName.RAY_SERVE)
    assert not ray.supported and "diffusers" in ray.reason
    engines = EngineCatalog(ray_modules=frozenset({"torch", "transformers", "diffusers"}))
    assert supported(analyze(tmp_path / "m", engines=engines)) == {RuntimeName.RAY_SERVE}
