"""Diffusers pipelines: images from texts.

They read weights from safetensors only, and run code of the folder only if it is approved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from runtimes.ray.replica.checkpoint import TEXT, texts_of
from runtimes.ray.replica.tensors import Array, BadRequest, Spec

UPPER_BOUNDS = {"num_inference_steps": 150, "height": 2048, "width": 2048}
"""Integer parameters of the pipeline and their upper bounds: one request must neither occupy the
replica for an hour nor need all its memory."""
MAX_TEXTS = 8
"""Upper bound of the texts in one request: their images are generated at once."""


class TextToImageModel:
    """One image per text, as pixels: rows × columns × RGB, 0 to 255."""

    platform = "diffusers"
    inputs = TEXT
    outputs: tuple[Spec, ...] = (Spec(name="image", datatype="UINT8", shape=(-1, -1, -1, 3)),)
    batches = False

    def __init__(self, *, path: Path, device: str, dtype: str | None, remote_code: bool) -> None:
        """Load the pipeline that ``model_index.json`` names."""
        import torch
        from diffusers import DiffusionPipeline

        self._pipeline = DiffusionPipeline.from_pretrained(
            str(path),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=remote_code,
            torch_dtype=getattr(torch, dtype) if dtype else None,
        ).to(device)
        self._pipeline.set_progress_bar_config(disable=True)
        self._device = device

    def infer(self, tensors: dict[str, Array], parameters: dict[str, Any]) -> dict[str, Array]:
        """Return an ``image`` for each ``text``; the same ``seed`` gives the same images.

        Further parameters: ``num_inference_steps``, ``height``, ``width``, ``guidance_scale``.

        Raises:
            BadRequest: too many texts, or a parameter is out of bounds.
        """
        return {"image": self.paint(texts_of(tensors), parameters)}

    def paint(self, texts: list[str], parameters: dict[str, Any]) -> Array:
        """Return pixels [texts, rows, columns, RGB]; raises as `infer`."""
        import torch

        if len(texts) > MAX_TEXTS:
            raise BadRequest(f"{len(texts)} texts in one request: at most {MAX_TEXTS} are allowed")
        chosen = pipeline_parameters(parameters)
        seed = chosen.pop("seed", None)
        if seed is not None:
            chosen["generator"] = torch.Generator(self._device).manual_seed(seed)
        with torch.inference_mode():
            found = self._pipeline(prompt=texts, output_type="np", **chosen).images
        pixels: Array = np.rint(np.asarray(found) * 255).clip(0, 255).astype(np.uint8)
        return pixels


def pipeline_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return those of a request's parameters that a pipeline accepts.

    Raises:
        BadRequest: one is out of bounds or of the wrong type.
    """
    chosen: dict[str, Any] = {}
    for name, value in parameters.items():
        if name == "guidance_scale":
            if type(value) not in (int, float) or not 0 <= value <= 100:
                raise BadRequest("guidance_scale must be a number from 0 to 100")
            chosen[name] = float(value)
        elif name == "seed":
            if type(value) is not int or not 0 <= value < 2**63:
                raise BadRequest("seed must be a whole number from 0 to 2**63 - 1")
            chosen[name] = value
        elif name in UPPER_BOUNDS:
            if type(value) is not int or not 1 <= value <= UPPER_BOUNDS[name]:
                raise BadRequest(f"{name} must be a whole number from 1 to {UPPER_BOUNDS[name]}")
            chosen[name] = value
    return chosen
