"""The description of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelium.selftest.system import describe


def machine(root: Path, **files: str) -> Path:
    for name, text in files.items():
        file = root / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_secrets_and_names_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = describe({"CUDA_VISIBLE_DEVICES": "1", "MODELIUM_GATEWAY__TOKEN": "secret"})
    assert found["environment"] == {"CUDA_VISIBLE_DEVICES": "1"}
    assert "secret" not in str(found)


def test_a_container_with_its_own_process_ids_is_told(tmp_path: Path) -> None:
    root = machine(tmp_path, proc__1__cgroup="0::/kubepods/pod1\n", proc__2__comm="bash\n")
    found = describe({}, root=root)
    assert found["container"] and not found["pid_namespace_is_hosts"]


def test_a_host_is_told(tmp_path: Path) -> None:
    files = {"etc__os-release": 'PRETTY_NAME="Debian 12"\n', "proc__2__comm": "kthreadd\n"}
    found = describe({}, root=machine(tmp_path, **files))
    assert not found["container"] and found["pid_namespace_is_hosts"]
    assert found["distribution"] == "Debian 12"
