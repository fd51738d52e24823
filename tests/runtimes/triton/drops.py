"""Folders of models for tests of the Triton driver."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from modelium.models import ModelFormat, ModelProfile
from tests.runtimes.requests import profile


def onnx(**changes: object) -> ModelProfile:
    return profile(ModelFormat.ONNX, files={"model": "model.onnx"}, **changes)


def drop(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def parse(text: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig())
