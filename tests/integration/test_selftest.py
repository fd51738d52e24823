"""``modelium selftest`` as a user runs it, on this machine's CPU with real runtimes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from modelium.selftest import SelfTestReport
from tests import engines


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A temporary folder with a short path: Ray's sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="mst-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.real
def test_each_enabled_runtime_serves_a_tiny_model_and_is_left_as_it_was(
    tmp_path: Path, scratch: Path
) -> None:
    ray = engines.ray_serve() | {"endpoint": f"http://127.0.0.1:{engines.free_port()}"}
    settings = {
        "orchestration": {
            "model_repository": str(tmp_path / "repository"),
            "incoming_directory": str(tmp_path / "incoming"),
        },
        "triton": engines.triton(tmp_path / "triton-work"),
        "llama_cpp": engines.llama_cpp(),
        "ray_serve": ray,
    }
    file = tmp_path / "modelium.yaml"
    file.write_text(yaml.safe_dump(settings))
    output = tmp_path / "report.json"
    command = [sys.executable, "-m", "modelium", "selftest", "-c", str(file), "-o", str(output)]
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=280,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = SelfTestReport.model_validate(json.loads(output.read_text()))
    by_name = {check.name: check for check in report.checks}
    for label in ("Triton", "llama.cpp", "Ray Serve"):
        for step in ("connect", "load", "request", "memory", "unload"):
            check = by_name[f"{label}: {step}"]
            assert check.outcome == "ok", check
            assert check.facts["seconds"] >= 0
            assert f"✓ {check.name}: {check.detail[:20]}" in " ".join(ran.stdout.split())
        (booked,) = by_name[f"{label}: memory"].facts["booked_bytes"].values()
        (measured,) = by_name[f"{label}: memory"].facts["measured_bytes"].values()
        assert 0 < measured <= booked
    assert not (tmp_path / "repository").exists(), "it works in a folder of its own"
    assert not list(scratch.glob("modelium-selftest-*"))


@pytest.mark.real
def test_a_runtime_that_is_not_there_fails_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "modelium.yaml"
    missing = tmp_path / "no-such-llama-server"
    file.write_text(f"llama_cpp: {{enabled: true, executable: {missing}}}\n")
    command = [sys.executable, "-m", "modelium", "selftest", "-c", str(file)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    failed = [line for line in ran.stdout.splitlines() if line.startswith("✗")]
    assert len(failed) == 1 and failed[0].startswith("✗ llama.cpp: ")
    assert "Traceback" not in ran.stdout + ran.stderr
