"""Applications of a drop's own code: ``serve.yaml``."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelium.analysis import analyze, estimate
from modelium.errors import DropRejected
from modelium.models import GIB, ModelFormat, RuntimeName, Task

CODE = frozenset({"remote-code"})


def drop(folder: Path, text: str, *, code: bool = True) -> Path:
    (folder / "serve.yaml").write_text(text)
    (folder / "weights.safetensors").write_bytes(b"x" * 1000)
    if code:
        (folder / "app.py").write_text("raise RuntimeError('run at analysis')")
    return folder


def test_an_approved_application_is_for_ray_serve_alone(tmp_path: Path) -> None:
    text = "import_path: app:build\nargs: {threshold: 0.5}\nmemory_gib: 1.5\n"
    profile = analyze(drop(tmp_path, text), approvals=CODE)
    assert (profile.format, profile.task) == (ModelFormat.CUSTOM, Task.GENERIC)
    assert profile.needs_remote_code
    assert profile.details["args"] == {"threshold": 0.5}
    assert [s.runtime for s in profile.runtimes if s.supported] == [RuntimeName.RAY_SERVE]
    for kind in ("cpu", "gpu"):
        found = estimate(profile, runtime=RuntimeName.RAY_SERVE, device_kind=kind)
        assert found.reserve == int(1.5 * GIB)


def test_without_a_declaration_the_files_and_a_process_are_counted(tmp_path: Path) -> None:
    profile = analyze(drop(tmp_path, "import_path: a.b:c"), approvals=CODE)
    found = estimate(profile, runtime=RuntimeName.RAY_SERVE, device_kind="cpu")
    assert found.weights == profile.weight_bytes > 1000
    assert found.reserve > 0.9 * 10**9  # torch, as far as anybody knows


@pytest.mark.parametrize("code", [True, False])
def test_it_needs_the_approval_for_code(tmp_path: Path, code: bool) -> None:
    """Also where it names a module that is installed."""
    with pytest.raises(DropRejected, match="have an operator approve `remote-code`") as refused:
        analyze(drop(tmp_path, "import_path: os:system", code=code))
    assert refused.value.approvable


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a mapping"),
        ("- a", "is not a mapping"),
        ("{", "is not valid YAML"),
        ("[" * 50_000, "is nested more than 32 levels"),
        ("- " * 30_000, "is nested more than 32 levels"),
        ("args: {}", "needs import_path"),
        ("import_path: app", "needs import_path"),
        ("import_path: ../app:x", "needs import_path"),
        ("import_path: a:b\nruntime_env: {pip: [x]}", "unknown keys (runtime_env); known: args"),
        ("import_path: a:b\nargs: [1]", "not a mapping of names"),
        ("import_path: a:b\nargs: {1: 2}", "not a mapping of names"),
        ("import_path: a:b\nargs: {x: 2026-01-01}", "JSON cannot hold"),
        ("import_path: a:b\nargs: {x: .nan}", "JSON cannot hold"),
        ("import_path: a:b\nargs: {x: !!python/name:os.system }", "is not valid YAML"),
        ("import_path: a:b\nargs: {x: &a [1], y: *a}", "has aliases"),
        ("import_path: a:b\nmemory_gib: 0", "memory_gib that is not"),
        ("import_path: a:b\nmemory_gib: true", "memory_gib that is not"),
        ("import_path: a:b\n#" + "x" * 70_000, "is larger than"),
    ],
    ids=range(18),
)
def test_a_malformed_file_is_named_with_its_fault(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DropRejected) as refused:
        analyze(drop(tmp_path, text), approvals=CODE)
    assert refused.value.reason == "bad-serve-yaml"
    assert said in str(refused.value)
