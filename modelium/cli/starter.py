"""The text of a first configuration for a machine (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterator

from modelium.cli.machine import Machine
from modelium.config.reference import flow
from modelium.config.sections.orchestration import Orchestration


def first_configuration(machine: Machine, folders: Orchestration) -> str:
    """Return a configuration that enables what ``machine`` has, with comments that say why.

    Args:
        machine: what was found.
        folders: where models and drops are to lie.
    """
    blocks = [
        _head(machine),
        [
            "orchestration:",
            "  # Models are dropped here, and kept there.",
            f"  incoming_directory: {flow(str(folders.incoming_directory))}",
            f"  model_repository: {flow(str(folders.model_repository))}",
        ],
        _vllm(machine),
        _triton(machine),
        _llama(machine),
        _ray(machine),
    ]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _head(machine: Machine) -> list[str]:
    kind = "GPUs" if machine.has_gpu else "no GPU, so models run on the CPU"
    return [
        "# A first configuration for this machine, from `modelium config init`.",
        "# Every field: `modelium config init --all`. Check changes with `modelium config check`.",
        f"# Devices: {kind}.",
        *(f"#   {device}" for device in machine.devices),
    ]


def _vllm(machine: Machine) -> list[str]:
    if machine.vllm is None:
        return [
            "# vLLM serves language models from safetensors. Not found: install it into an",
            "# environment of its own and name its command here.",
            *_off("vllm", "executable: /opt/vllm/bin/vllm"),
        ]
    if machine.vllm_needs_gpu and not machine.has_gpu:
        return [
            f"# vLLM was found ({machine.vllm}), but it is not a CPU build and there is no GPU.",
            *_off("vllm", f"executable: {flow(machine.vllm)}"),
        ]
    return [
        "# vLLM, which serves language models from safetensors, was found.",
        *_on("vllm", f"executable: {flow(machine.vllm)}"),
    ]


def _triton(machine: Machine) -> list[str]:
    if machine.triton is None:
        return [
            "# Triton serves ONNX, TensorRT, TorchScript and more. Not found: install it,",
            "# or name the endpoint of one that runs.",
            *_off("triton", "command: [tritonserver]"),
        ]
    return [
        "# Triton, which serves ONNX, TensorRT, TorchScript and more, was found.",
        *_on("triton", f"command: [{flow(machine.triton)}]"),
    ]


def _llama(machine: Machine) -> list[str]:
    if machine.llama is None:
        return [
            "# llama.cpp serves GGUF files. Not found: install llama-server.",
            *_off("llama_cpp", "executable: llama-server"),
        ]
    return [
        "# llama.cpp, which serves GGUF files, was found.",
        *_on("llama_cpp", f"executable: {flow(machine.llama)}"),
    ]


def _ray(machine: Machine) -> list[str]:
    torch = [
        "# Embedding, classification and image models need an interpreter with torch: see",
        "# docs/runtimes/ray-serve.md.",
    ]
    if machine.replica_python is not None:
        return [
            "# Ray Serve comes with Modelium and serves ONNX; an interpreter with torch was found,",
            "# so embedding, classification and image models, too.",
            *_on("ray_serve", f"python: {flow(machine.replica_python)}"),
        ]
    if machine.triton is not None:
        return [
            "# Ray Serve comes with Modelium and serves ONNX, as Triton does: enable one of them.",
            *torch,
            *_off("ray_serve", "python: /opt/replica/bin/python"),
        ]
    return [
        "# Ray Serve comes with Modelium and serves ONNX models; it takes 1 GB of memory.",
        *torch,
        *_on("ray_serve", "# python: /opt/replica/bin/python"),
    ]


def _on(section: str, *fields: str) -> Iterator[str]:
    yield f"{section}:"
    yield "  enabled: true"
    yield from (f"  {field}" for field in fields)


def _off(section: str, *fields: str) -> Iterator[str]:
    yield from (f"# {line}" for line in _on(section, *fields))
