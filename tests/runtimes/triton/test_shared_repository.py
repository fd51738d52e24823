"""Modelium's own repository, served by Triton in place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import httpx
import pytest

from modelium.analysis import analyze, digest
from modelium.analysis.readers.laid import MARKER, Laid
from modelium.clock import SystemClock
from modelium.config import Triton as TritonSection
from modelium.errors import FailureKind, LoadFailed, NeedsApproval
from modelium.models import ModelFormat
from modelium.ports import Loaded
from runtimes.triton.driver import TritonDriver
from runtimes.triton.shared_repository import SharedRepository
from tests import engines
from tests.runtimes.requests import Inventory, no_progress, profile, request
from tests.runtimes.triton.drops import drop, onnx, parse
from tests.samples import tiny_onnx


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_what_triton_needs_lies_beside_the_drops_own_files(tmp_path: Path) -> None:
    model = drop(tmp_path / "m", model_onnx="graph", weights_data="external", readme_md="hi")
    repository = SharedRepository(root=tmp_path)
    before = digest(model)
    entry = repository.add(request(model, profile=onnx(), version=1))
    assert (entry.name, entry.path, entry.config) == ("m", model, None)
    assert (model / "1/model.onnx").samefile(model / "model.onnx"), "linked, not copied"
    assert (model / "1/weights.data").read_text() == "external"
    config = parse((model / "config.pbtxt").read_text())
    assert config.name == "m"
    assert list(config.version_policy.specific.versions) == [1]
    assert repository.version("m") == 1
    assert digest(model) == before
    again = repository.add(request(model, profile=onnx(), version=1))
    assert again == entry
    repository.remove("m")
    assert tree(model) == ["model.onnx", "readme.md", "weights.data"]


def test_a_later_version_is_an_entry_of_its_own(tmp_path: Path) -> None:
    later = drop(tmp_path / "m@2", model_onnx="graph")
    repository = SharedRepository(root=tmp_path)
    assert repository.add(request(later, profile=onnx(), version=2)).name == "m@2"
    assert parse((later / "config.pbtxt").read_text()).name == "m@2"
    assert (later / "2/model.onnx").exists()
    with pytest.raises(LoadFailed, match="not called m,"):
        repository.add(request(later, model="m", profile=onnx(), version=2))


def test_a_drop_with_a_version_folder_lacks_the_configuration_alone(tmp_path: Path) -> None:
    model = drop(tmp_path / "m", **{"3__model_onnx": "graph"})
    own = onnx().model_copy(update={"files": {"model": "3/model.onnx"}})
    SharedRepository(root=tmp_path).add(request(model, profile=own))
    assert tree(model) == [MARKER, "3", "3/model.onnx", "config.pbtxt"]
    config = parse((model / "config.pbtxt").read_text())
    assert list(config.version_policy.specific.versions) == [3]


def test_a_folder_of_the_drop_is_not_taken_for_a_version_of_modeliums(tmp_path: Path) -> None:
    model = drop(tmp_path / "m", model_onnx="graph", **{"1__notes_txt": "mine"})
    repository = SharedRepository(root=tmp_path)
    repository.add(request(model, profile=onnx(), version=1))
    assert (model / "2/model.onnx").exists()
    config = parse((model / "config.pbtxt").read_text())
    assert list(config.version_policy.specific.versions) == [2]
    repository.remove("m")
    assert tree(model) == ["1", "1/notes.txt", "model.onnx"]


def test_a_crash_before_or_after_the_marker_leaves_nothing_that_counts(tmp_path: Path) -> None:
    model = drop(tmp_path / "m", model_onnx="graph", weights_data="external")
    before = digest(model)
    repository = SharedRepository(root=tmp_path)
    repository.add(request(model, profile=onnx()))
    (model / "config.pbtxt").write_text("na")  # cut short
    (model / "1/weights.data").unlink()  # not yet laid
    assert digest(model) == before
    repository.add(request(model, profile=onnx()))
    assert (model / "1/weights.data").exists()
    (model / MARKER).write_text('{"ver')
    for laid in ("config.pbtxt", "1/model.onnx", "1/weights.data"):
        (model / laid).unlink()
    (model / "1").rmdir()
    assert digest(model) == before
    repository.add(request(model, profile=onnx()))
    assert (model / "1/model.onnx").exists()


def test_without_hard_links_relative_links_are_laid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    model = drop(tmp_path / "m", model_onnx="graph")
    before = digest(model)
    monkeypatch.setattr(os, "link", refused)
    repository = SharedRepository(root=tmp_path)
    repository.add(request(model, profile=onnx()))
    assert os.readlink(model / "1/model.onnx") == "../model.onnx"
    assert digest(model) == before
    repository.remove("m")
    assert tree(model) == ["model.onnx"]

    monkeypatch.setattr(os, "symlink", refused)
    with pytest.raises(LoadFailed, match="a folder of its own") as failure:
        repository.add(request(model, profile=onnx()))
    assert failure.value.kind == FailureKind.ENVIRONMENT
    assert tree(model) == ["model.onnx"]


def test_a_configuration_that_appears_later_is_not_overwritten(tmp_path: Path) -> None:
    model = drop(tmp_path / "m", model_onnx="graph", config_pbtxt="theirs")
    with pytest.raises(LoadFailed, match="drop the model again") as failure:
        SharedRepository(root=tmp_path).add(request(model, profile=onnx()))
    assert failure.value.kind == FailureKind.BAD_FILES
    assert (model / "config.pbtxt").read_text() == "theirs"


def test_an_entry_in_tritons_own_form_is_served_in_place(tmp_path: Path) -> None:
    theirs = 'name: "theirs"\nbackend: "onnxruntime"\nmax_batch_size: 4\n'
    model = drop(tmp_path / "m", config_pbtxt=theirs, **{"2__model_onnx": "two"})
    triton = profile(ModelFormat.TRITON, architecture="onnxruntime")
    entry = SharedRepository(root=tmp_path).add(request(model, profile=triton))
    assert (model / "config.pbtxt").read_text() == theirs
    assert tree(model) == [MARKER, "2", "2/model.onnx", "config.pbtxt"]
    config = json.loads(entry.config or "")
    assert (config["name"], config["max_batch_size"]) == ("m", 4)
    assert config["instance_group"] == [{"count": 1, "kind": "KIND_CPU"}]

    whole = 'backend: "onnxruntime"\ninstance_group [ { count: 2 kind: KIND_CPU } ]'
    (model / "config.pbtxt").write_text(whole)
    assert SharedRepository(root=tmp_path).add(request(model, profile=triton)).config is None


@pytest.mark.parametrize(
    "step",
    [
        {"1__model_py": "code"},
        {"1__libtriton_own_so": "code"},
        {"config_pbtxt": 'backend: "python"'},
    ],
)
def test_a_step_with_code_needs_approval_of_its_ensemble(
    tmp_path: Path, step: dict[str, str]
) -> None:
    """Triton loads the steps with it, also those that Modelium refused and left in place."""
    scheduling = 'platform: "ensemble"\nensemble_scheduling {{ step [ {{ model_name: "{}" }} ] }}'
    model = drop(tmp_path / "m", config_pbtxt=scheduling.format("inner"))
    drop(tmp_path / "inner", config_pbtxt=scheduling.format("refused@2"))
    drop(tmp_path / "refused@2", **{"config_pbtxt": 'backend: "own"', **step})
    ensemble = profile(ModelFormat.TRITON, architecture="ensemble")
    repository = SharedRepository(root=tmp_path)
    with pytest.raises(NeedsApproval, match="the step refused@2 of m contains code"):
        repository.add(request(model, profile=ensemble))
    assert tree(model) == ["config.pbtxt"]
    repository.add(request(model, profile=ensemble, allow_remote_code=True))
    repository.remove("m")
    (tmp_path / "inner/config.pbtxt").write_text(scheduling.format("m"))
    repository.add(request(model, profile=ensemble))  # a circle ends, and Triton refuses it


def test_python_code_needs_approval_and_links_out_are_refused(tmp_path: Path) -> None:
    python = profile(ModelFormat.TRITON, architecture="python", files={"model": "1/model.py"})
    files = {"1__model_py": "code"}
    model = drop(tmp_path / "repository/m", config_pbtxt='backend: "python"', **files)
    repository = SharedRepository(root=tmp_path / "repository")
    with pytest.raises(NeedsApproval, match="approve m remote-code"):
        repository.add(request(model, profile=python))
    Laid(version=1, config=True, folder="1").write(model)
    with pytest.raises(LoadFailed, match="no model file"):
        # A forged marker costs the drop its own files at most.
        repository.add(request(model, profile=onnx()))
    (model / "config.pbtxt").write_text('backend: "python"')
    (model / "1/secret").symlink_to("/etc/passwd")
    with pytest.raises(LoadFailed, match="link"):
        repository.add(request(model, profile=python, allow_remote_code=True))


DOUBLE = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("b", 2 * pb_utils.get_input_tensor_by_name(r, "a").as_numpy())]
            )
            for r in requests
        ]
"""
DOUBLE_CONFIG = """
name: "theirs"
backend: "python"
input [ { name: "a" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "b" data_type: TYPE_FP32 dims: [ 1 ] } ]
"""


async def infer(loaded: Loaded, name: str, values: list[float]) -> list[float]:
    upstream = loaded.upstream
    shape = [1, 4] if len(values) == 4 else [1]
    tensor = {"name": name, "datatype": "FP32", "shape": shape, "data": values}
    transport = httpx.AsyncHTTPTransport(uds=upstream.socket or None)
    async with httpx.AsyncClient(transport=transport, timeout=60) as client:
        answer = await client.post(
            f"{upstream.base_url}/v2/models/{upstream.served_name}/infer",
            json={"inputs": [tensor]},
        )
    assert answer.status_code == 200, answer.text
    return list(answer.json()["outputs"][0]["data"])


@pytest.mark.real
async def test_a_real_triton_serves_the_shared_repository(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    section = engines.triton(tmp_path / "work") | {"model_repository": str(root)}

    def driver() -> TritonDriver:
        return TritonDriver(
            config=TritonSection.model_validate(section),
            state_directory=tmp_path / "state",
            clock=SystemClock(),
            devices=Inventory(),
            models=root,
        )

    for name in ("m", "m@2"):
        tiny_onnx(root / name)
    drop(root / "llm", config_json="{}", model_safetensors="weights")
    model = analyze(root / "m")
    one = request(root / "m", profile=model)
    two = request(root / "m@2", profile=model, version=2)
    python = profile(ModelFormat.TRITON, architecture="python", files={"model": "1/model.py"})
    theirs = drop(root / "double", config_pbtxt=DOUBLE_CONFIG, **{"1__model_py": DOUBLE})
    before = {name: tree(root / name) for name in ("m", "m@2", "llm", "double")}
    async with driver() as triton:
        try:
            assert await infer(await triton.load(one, progress=no_progress), "x", [1, 2, 3, 4]) == (
                [10.0, 10.0, 10.0]
            )
            double = await triton.load(
                request(theirs, profile=python, allow_remote_code=True), progress=no_progress
            )
            assert await infer(double, "a", [21.0]) == [42.0]
            second = await triton.load(two, progress=no_progress)
            assert second.upstream.served_name == "m@2"
            assert await infer(second, "x", [1, 2, 3, 4]) == [10.0, 10.0, 10.0]
            await triton.unload("m", handle={}, grace_s=1)
            assert tree(root / "m") == before["m"], "the older version is no longer loaded"

            async with driver() as again:  # as after a restart
                found = {running.model: running for running in await again.discover({})}
                assert sorted(found) == ["double", "m@2"]
                assert found["m@2"].handle == {"version": 2}
                assert set(await again.stats()) == {"double", "m@2"}
                for name in ("m@2", "double", "unknown"):
                    await again.unload(name, handle={}, grace_s=1)
                assert await again.discover({}) == []
            assert {name: tree(root / name) for name in before} == before
        finally:
            await triton.end(grace_s=10)


@pytest.mark.parametrize("at", ["fsync", "link", "unlink"])
def test_a_disk_that_fails_is_one_sentence_and_costs_the_drop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def failing(*_args: object, **_given: object) -> None:
        raise OSError(28, "No space left on device")

    model = drop(tmp_path / "m", model_onnx="graph", weights_data="external")
    repository = SharedRepository(root=tmp_path)
    if at == "unlink":
        repository.add(request(model, profile=onnx()))
    with monkeypatch.context() as patch:
        for call in {at, "symlink"}:
            patch.setattr(os, call, failing)
        with pytest.raises(LoadFailed, match="No space left") as caught:
            repository.add(request(model, profile=onnx()))
    assert caught.value.kind is FailureKind.ENVIRONMENT
    repository.remove("m")
    assert tree(model) == ["model.onnx", "weights.data"]
