"""From a listed folder to a `ModelProfile`: detect the format, then use that format's reader."""

from __future__ import annotations

from modelium.analysis.catalog import EngineCatalog
from modelium.analysis.formats import peft, triton
from modelium.analysis.formats.compiled import profile_compiled
from modelium.analysis.formats.custom import profile_custom
from modelium.analysis.formats.diffusers import profile_diffusers
from modelium.analysis.formats.gguf import profile_gguf
from modelium.analysis.formats.onnx import profile_onnx
from modelium.analysis.formats.transformers import profile_transformers
from modelium.analysis.readers.code_references import PIPELINE_INDEX, SERVE_FILE
from modelium.analysis.readers.folder import Folder, shown
from modelium.analysis.readers.triton_config import CONFIG as TRITON_CONFIG
from modelium.errors import DropRejected
from modelium.models import ModelProfile

SUPPORTED = (
    "Supported: transformers folders (config.json, safetensors), ONNX, GGUF, Triton repository "
    "entries, TorchScript, TensorRT plans, OpenVINO, diffusers folders, PEFT adapters and custom "
    "applications (serve.yaml)."
)

_BY_MARKER = (
    (SERVE_FILE, profile_custom),
    (TRITON_CONFIG, triton.profile_triton),
    (PIPELINE_INDEX, profile_diffusers),
    (peft.CONFIG, peft.profile_peft),
)
"""Files that settle the format by themselves."""


def profile_folder(folder: Folder, engines: EngineCatalog) -> ModelProfile:
    """Return the profile of a folder that passed the safety checks.

    Raises `DropRejected` with a reason slug for an unknown or damaged format.
    """
    for marker, read in _BY_MARKER:
        if marker in folder:
            return read(folder, engines)
    if folder.having(".gguf") and not folder.having(".safetensors"):
        return profile_gguf(folder, engines)
    compiled = None if folder.having(".safetensors") else profile_compiled(folder, engines)
    if compiled is not None:
        return compiled
    if config := _config_file(folder):
        return profile_transformers(folder, engines, config)
    if folder.having(".onnx"):
        return profile_onnx(folder, engines)
    names = shown(", ".join(f.name for f in folder.files[:5]))
    count = f"{len(folder.files)} {'file' if len(folder.files) == 1 else 'files'}"
    raise DropRejected(
        f"No known model format in {count} ({names}). {SUPPORTED}",
        reason="unknown-format",
    )


def _config_file(folder: Folder) -> str | None:
    if "config.json" in folder:
        # A configuration beside another format's model describes that model.
        onnx_only = folder.having(".onnx") and not folder.having(".safetensors")
        return None if onnx_only else "config.json"
    # A bare configuration may have any name.
    if len(folder.files) == 1 and folder.files[0].suffix == ".json":
        return folder.files[0].name
    return None
