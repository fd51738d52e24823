"""The systemd unit, the Containerfile and the compose file are valid and give no rights away."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNIT = (DEPLOY / "modelium.service").read_text()


def test_systemd_accepts_the_unit_and_calls_it_confined(tmp_path: Path) -> None:
    command = shutil.which("systemd-analyze")
    assert command, "systemd-analyze is missing: tools/apt.sh systemd"
    unit = tmp_path / "modelium.service"
    # systemd checks that the command exists.
    unit.write_text(UNIT.replace("/opt/modelium/bin/modelium", sys.executable))

    verified = subprocess.run(
        [command, "verify", str(unit)], capture_output=True, text=True, timeout=60
    )
    assert "modelium.service" not in verified.stderr, verified.stderr
    rated = subprocess.run(
        [command, "security", "--offline=true", "--threshold=50", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert rated.returncode == 0, rated.stdout + rated.stderr


def test_a_stop_of_the_unit_leaves_models_to_the_next_start() -> None:
    assert "KillMode=process" in UNIT
    # They would look for their sockets in another /tmp.
    assert "PrivateTmp=yes" not in UNIT


def test_the_container_has_no_rights_and_needs_a_token() -> None:
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["modelium"]

    assert service["user"] == "10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert ":?" in service["environment"]["MODELIUM_GATEWAY__TOKEN"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_the_containerfile_copies_what_exists_and_all_that_the_wheel_needs() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE)
        for source in line.split()[:-1]
    }

    assert all((ROOT / source).exists() for source in copied), copied
    assert {"modelium", "flows", "agents", "runtimes", "deploy", "pyproject.toml"} <= copied
    assert text.index("USER 10001") > text.rindex("RUN ")
    assert "--require-hashes" in text
