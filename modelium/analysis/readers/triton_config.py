"""``config.pbtxt`` of a Triton model, and what it has the server run."""

from __future__ import annotations

from typing import Any

from modelium.analysis.readers.folder import Folder, inside, shown
from modelium.analysis.readers.vllm_arguments import special_arguments
from modelium.errors import DropRejected

CONFIG = "config.pbtxt"
MAX_CONFIG_BYTES = 1024**2
ENVIRONMENT = "EXECUTION_ENV_PATH"
"""Parameter of backends in Python, vLLM's too, which run ``bin/activate`` of that folder."""
_VLLM = "vllm"
_CODE_BACKENDS = frozenset({"python", "tensorrt", "dali"})
"""Their models are code, or are deserialized into it."""


def parse_config(folder: Folder) -> Any:
    """Return the parsed configuration of ``folder``; raises `DropRejected`."""
    if folder.sizes[CONFIG] > MAX_CONFIG_BYTES:
        raise DropRejected(
            f"{CONFIG} is larger than 1 MiB. Replace it with the model's own file.",
            reason="file-too-large",
        )
    # Both are slow to import and needed only here.
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    config = model_config_pb2.ModelConfig()
    try:
        text = folder.read(CONFIG, limit=MAX_CONFIG_BYTES).decode("utf-8")
        text_format.Parse(text, config)
    except (text_format.ParseError, UnicodeDecodeError, RecursionError, ValueError) as exc:
        raise DropRejected(
            f"{CONFIG} cannot be parsed: {shown(str(exc), limit=200)}. Correct it.",
            reason="bad-triton",
        ) from exc
    return config


def triton_code(folder: Folder) -> list[str]:
    """Return what in a Triton model's configuration has the server run code of the drop.

    The files themselves are found by their names; raises `DropRejected` as `parse_config`.
    """
    if CONFIG not in folder:
        return []
    config, found = parse_config(folder), []
    if config.backend in _CODE_BACKENDS or config.platform == "tensorrt_plan":
        found.append(f"{CONFIG} (backend {config.backend or config.platform})")
    if config.model_operations.op_library_filename:
        found.append(f"{CONFIG} (op_library_filename)")
    if config.runtime and "/" not in config.runtime:  # a path is refused by the profile
        found.append(f"{CONFIG} (runtime)")
    place = config.parameters.get(ENVIRONMENT)
    if place is not None and inside(place.string_value.removeprefix("$$TRITON_MODEL_DIRECTORY/")):
        found.append(f"{CONFIG} ({ENVIRONMENT})")
    return found + _arguments(folder, config)


def triton_arguments(folder: Folder) -> list[str]:
    """Return the arguments of a Triton model's engine that only an operator may give."""
    return _arguments(folder, parse_config(folder)) if CONFIG in folder else []


def _arguments(folder: Folder, config: Any) -> list[str]:
    # Without a backend, a file named model.vllm in a version would choose this one.
    backend = config.backend or config.platform or _VLLM
    return special_arguments(folder) if backend == _VLLM else []
