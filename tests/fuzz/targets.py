"""What the fuzzers feed: each target takes bytes and either works or refuses them.

Any other exception than `DropRejected` is a finding. The seeds are small valid inputs that
mutations start from.
"""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from modelium.analysis import analyze, estimate, examine, is_complete, unpack
from modelium.errors import DropRejected
from modelium.gateway.multipart import form_fields, renamed_form
from modelium.gateway.problems import HttpProblem
from modelium.models import RuntimeName
from tests.modelium.analysis.files import (
    GGUF_METADATA,
    LLAMA,
    PBTXT,
    gguf_folder,
    llama_tensors,
    onnx_model,
    write_json,
    write_safetensors,
)

ALL = frozenset({"remote-code", "pickle"})


def _examine(folder: Path) -> None:
    is_complete(folder)
    try:
        examine(folder)
        profile = analyze(folder, approvals=ALL)
    except DropRejected as exc:
        if not exc.reason or not str(exc).isprintable():
            raise AssertionError(f"not fit to be shown: {exc!r}") from exc
        return
    profile.model_dump_json()
    for runtime in RuntimeName:
        estimate(profile, runtime=runtime, tensor_parallel=2)


def _file(name: str, *others: tuple[str, object]) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for other, content in others:
                write_json(Path(folder) / other, content)
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            _examine(Path(folder))

    return target


def _triton(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "1").mkdir()
        (Path(folder) / "1" / "model.onnx").write_bytes(onnx_model())
        (Path(folder) / "config.pbtxt").write_bytes(data)
        _examine(Path(folder))


def _archive(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "in").write_bytes(data)
        with contextlib.suppress(DropRejected):
            unpack(root / "in", root / "a" / "out")
        strays = [p for p in root.rglob("*") if not p.is_relative_to(root / "a" / "out")]
        if {p.name for p in strays} - {"in", "a"}:
            raise AssertionError(f"written outside: {strays}")
        if any(p.is_symlink() for p in root.rglob("*")):
            raise AssertionError("a link was unpacked")


def _form(data: bytes) -> None:
    with contextlib.suppress(HttpProblem):
        fields = form_fields(data)
        renamed = renamed_form(data, "other")
        if "model" in fields and form_fields(renamed)["model"] != "other":
            raise AssertionError("another field was renamed than the one that is read")


TARGETS: dict[str, Callable[[bytes], None]] = {
    "safetensors": _file("model.safetensors", ("config.json", LLAMA)),
    "gguf": _file("model.gguf"),
    "onnx": _file("model.onnx"),
    "config": _file("config.json"),
    "index": _file("model.safetensors.index.json", ("config.json", LLAMA)),
    "diffusers": _file("model_index.json"),
    "adapter": _file("adapter_config.json"),
    "openvino": _file("model.xml"),
    "triton": _triton,
    "serve": _file("serve.yaml"),
    "form": _form,
    "archive": _archive,
}


def seeds(name: str) -> Iterator[bytes]:
    """Valid inputs of one target."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if name == "safetensors":
            yield write_safetensors(
                root / "s", {"a": ("F32", (2, 3)), "b": ("I8", ())}
            ).read_bytes()
            some = dict(list(llama_tensors().items())[:3])
            yield write_safetensors(root / "s", some).read_bytes()[:400]
        elif name == "gguf":
            yield (gguf_folder(root) / "model.gguf").read_bytes()[:2000]
        elif name == "onnx":
            yield onnx_model()
            yield onnx_model(external="w.data")
        elif name == "triton":
            yield PBTXT.encode()
        elif name == "serve":
            yield b"import_path: app:build\nargs:\n  a: [1, {b: c}]\nmemory_gib: 0.5\n"
        elif name == "form":
            yield (
                b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nRIFF\r\n'
                b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--B--\r\n'
            )
        elif name == "openvino":
            yield b'<?xml version="1.0"?><net name="n" version="11"></net>'
        elif name == "archive":
            yield from _archives()
        else:
            yield json.dumps(_SEEDS[name]).encode()


_SEEDS: dict[str, object] = {
    "config": {**LLAMA, "vision_config": {"depth": 2, "hidden_size": 8}, "quantization_config": {
        "quant_method": "compressed-tensors", "ignore": ["re:.*x.*"], "config_groups": {
            "g": {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 32}}}}},
    "index": {"metadata": {}, "weight_map": {"a": "model.safetensors"}},
    "diffusers": {"_class_name": "P", "unet": ["diffusers", "U"]},
    "adapter": {"base_model_name_or_path": "b", "auto_mapping": {"parent_library": "peft"},
                "metadata": sorted(GGUF_METADATA)},
}  # fmt: skip


def _archives() -> Iterator[bytes]:
    for mode in ("w", "w:gz", "w:xz"):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
            member = tarfile.TarInfo("a/b.txt")
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
        yield out.getvalue()[:1600]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a/b.txt", "abc")
    yield out.getvalue()
