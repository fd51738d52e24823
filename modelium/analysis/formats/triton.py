"""Entries of a Triton model repository: ``config.pbtxt`` and numbered version folders."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from modelium.analysis.catalog import EngineCatalog, assess
from modelium.analysis.describe import card_of
from modelium.analysis.formats.onnx import check_external
from modelium.analysis.readers.code_references import is_code
from modelium.analysis.readers.folder import Folder, inside, shown
from modelium.analysis.readers.onnx_graph import read_graph
from modelium.analysis.readers.triton_config import CONFIG, parse_config, triton_code
from modelium.errors import DropRejected
from modelium.models import ModelFormat, ModelProfile, Task, TensorSpec

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")

PLATFORMS = {
    "onnxruntime_onnx": "onnxruntime",
    "tensorrt_plan": "tensorrt",
    "pytorch_libtorch": "pytorch",
    "tensorflow_savedmodel": "tensorflow",
    "tensorflow_graphdef": "tensorflow",
    "openvino": "openvino",
    "ensemble": "ensemble",
}
FILES: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("model.onnx",),
    "tensorrt": ("model.plan",),
    "openvino": ("model.xml",),
    "pytorch": ("model.pt", "model.pt2"),
    "python": ("model.py",),
    "vllm": ("model.json",),
    "tensorflow": ("model.savedmodel", "model.graphdef"),
    "fil": ("xgboost.json", "xgboost.ubj", "model.json", "model.txt", "checkpoint.tl"),
}
"""File that each stock backend loads from a version folder; without it, the server's load hangs."""
_EXTENSIONS = {".onnx": "onnxruntime", ".plan": "tensorrt", ".xml": "openvino", ".pt": "pytorch"}


def profile_triton(folder: Folder, engines: EngineCatalog) -> ModelProfile:
    """Return the profile of a repository entry; raises `DropRejected` if it cannot be loaded."""
    config = parse_config(folder)
    versions = sorted({int(head) for f in folder.files if (head := _version_of(f.name))})
    backend = _backend(config, folder, versions)
    if not versions and backend != "ensemble":
        raise DropRejected(
            f"{CONFIG} has no version folder beside it. Put the model's files into a folder "
            "named 1.",
            reason="bad-triton",
        )
    for name in _file_references(config):
        if not inside(name):
            raise DropRejected(
                f"{CONFIG} refers to {shown(name)!r}, which is outside the model's folder. "
                "Put the file into the folder.",
                reason="path-traversal",
            )
    version = versions[-1] if versions else 0
    main = _main_file(config, folder, backend, version) if versions else None
    license_id, card = card_of(folder)
    prefix = f"{version}/"
    batch = int(config.max_batch_size)
    inputs = tuple(_spec(item, batch) for item in config.input)
    outputs = tuple(_spec(item, batch) for item in config.output)
    weights = sum(f.size for f in folder.files if f.name.startswith(prefix)) if versions else 0
    parameters, by_dtype = None, {}
    if main and main.endswith(".onnx"):
        graph = folder.parse(main, read_graph)
        check_external(folder, main, graph)
        inputs, outputs = inputs or tuple(graph.inputs), outputs or tuple(graph.outputs)
        parameters, by_dtype = graph.parameters, graph.bytes_by_dtype
        weights = sum(by_dtype.values())
    details: dict[str, Any] = {
        "backend": backend,
        "max_batch_size": batch,
        "versions": versions,
        "dynamic_batching": config.HasField("dynamic_batching"),
        "instances": sum(max(1, group.count) for group in config.instance_group) or 1,
        "wants_gpu": any(group.kind == 2 for group in config.instance_group),
    }
    if backend == "ensemble":
        details["steps"] = [shown(s.model_name) for s in config.ensemble_scheduling.step][:64]
    return ModelProfile(
        format=ModelFormat.TRITON,
        architecture=backend,
        task=Task.GENERIC,
        parameter_count=parameters,
        weight_bytes=weights,
        weight_bytes_by_dtype=by_dtype,
        inputs=inputs,
        outputs=outputs,
        files={"config": CONFIG} | ({"model": main} if main else {}),
        needs_remote_code=bool(triton_code(folder)) or any(is_code(f.name) for f in folder.files),
        runtimes=assess(
            format=ModelFormat.TRITON,
            task=Task.GENERIC,
            architecture=backend,
            engines=engines,
            backend=backend,
        ),
        license=license_id,
        card=card,
        details=details,
    )


def _version_of(name: str) -> str:
    head, slash, _ = name.partition("/")
    return head if slash and _VERSION.fullmatch(head) else ""


def _backend(config: Any, folder: Folder, versions: list[int]) -> str:
    name = config.backend or PLATFORMS.get(config.platform, config.platform)
    if config.HasField("ensemble_scheduling"):
        name = "ensemble"
    if not name and config.default_model_filename:
        name = _EXTENSIONS.get("." + config.default_model_filename.rpartition(".")[2], "")
    if not name and versions:
        names = {f.name.partition("/")[2] for f in folder.files if _version_of(f.name)}
        name = next((b for b, files in FILES.items() if names & set(files)), "")
    # The server builds a library path from this name.
    if not _PLAIN_NAME.fullmatch(name):
        raise DropRejected(
            f"{CONFIG} has no valid backend ({shown(name)!r}). "
            "Set `backend`, for example to onnxruntime.",
            reason="bad-triton",
        )
    return str(name)


def _file_references(config: Any) -> Iterable[str]:
    if config.default_model_filename:
        yield config.default_model_filename
    yield from config.cc_model_filenames.values()
    yield from config.model_operations.op_library_filename
    for warmup in config.model_warmup:
        for item in warmup.inputs.values():
            if item.input_data_file:
                yield item.input_data_file
    environment = config.parameters.get("EXECUTION_ENV_PATH")
    if environment is not None and environment.string_value:
        yield environment.string_value.removeprefix("$$TRITON_MODEL_DIRECTORY/")
    if "/" in config.runtime or "\\" in config.runtime:
        yield f"../{config.runtime}"


def _main_file(config: Any, folder: Folder, backend: str, version: int) -> str | None:
    wanted = (
        (config.default_model_filename,) if config.default_model_filename else FILES.get(backend)
    )
    if wanted is None:
        return None
    for name in wanted:
        path = f"{version}/{name}"
        if path in folder or any(f.name.startswith(f"{path}/") for f in folder.files):
            return path
    if backend == "ensemble":
        return None
    raise DropRejected(
        f"Version {version} has no {wanted[0]}, without which Triton's {backend} backend hangs. "
        "Add the file or set default_model_filename.",
        reason="bad-triton",
    )


def _spec(item: Any, batch: int) -> TensorSpec:
    dims = tuple(int(n) for n in item.dims)
    # DataType's names are KServe's with a prefix, except for strings.
    name = (
        item.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[item.data_type].name
    )
    dtype = {"TYPE_STRING": "BYTES"}.get(name, name.removeprefix("TYPE_"))
    return TensorSpec(name=item.name, dtype=dtype, shape=(-1, *dims) if batch > 0 else dims)
