"""The lock files fit every machine, and `tools/env.sh` installs the torch that a machine offers."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_package_is_pinned_to_a_public_version_with_hashes(lock: Path) -> None:
    logical = lock.read_text().replace("\\\n", " ").splitlines()
    packages = [line for line in logical if line and not line.startswith("#")]

    assert packages
    for package in packages:
        assert re.match(r"[A-Za-z0-9._-]+==[0-9A-Za-z.!]+ ", package), package
        assert "--hash=sha256:" in package, package


def wheel(folder: Path, name: str, version: str) -> str:
    """Write a wheel without contents and return its hash."""
    file = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(file, "w") as out:
        out.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}")
        out.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any"
        )
        out.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(file.read_bytes()).hexdigest()


class Machine:
    """A checkout whose locks name made-up wheels, and what package indexes offer."""

    def __init__(self, folder: Path) -> None:
        self.offered = folder / "offered"
        self.offered.mkdir()
        self.checkout, self.cache = folder / "checkout", folder / "cache"
        (self.checkout / "requirements").mkdir(parents=True)
        (self.checkout / "tools").mkdir()
        shutil.copy(ROOT / "tools/env.sh", self.checkout / "tools")
        self.cpu = wheel(self.offered, "torch", "2.0+cpu")
        self.plain = wheel(self.offered, "torch", "2.0")
        self.lock("engine", f"torch==2.0 --hash=sha256:{self.cpu} --hash=sha256:{self.plain}")
        self.lock("cuda", f"triton==3.0 --hash=sha256:{wheel(self.offered, 'triton', '3.0')}")

    def lock(self, name: str, text: str) -> None:
        (self.checkout / f"requirements/{name}.lock").write_text(f"{text}\n")

    def create(self) -> subprocess.CompletedProcess[str]:
        given = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "XDG_"))}
        return subprocess.run(
            [str(self.checkout / "tools/env.sh"), "engine"],
            env={
                **given,
                "PYTHON": sys.executable,
                "XDG_CACHE_HOME": str(self.cache),
                "PIP_CONFIG_FILE": os.devnull,
                "PIP_NO_INDEX": "1",
                "PIP_FIND_LINKS": str(self.offered),
            },
            capture_output=True,
            text=True,
            timeout=240,
        )

    def installed(self) -> set[str]:
        done = self.create()
        assert done.returncode == 0, done.stderr
        packages = Path(done.stdout.strip()).glob("lib/*/site-packages/*.dist-info")
        return {p.name.removesuffix(".dist-info") for p in packages if p.name.startswith("t")}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_cpu_build_of_torch_is_preferred_where_one_is_offered(machine: Machine) -> None:
    assert machine.installed() == {"torch-2.0+cpu"}


def test_elsewhere_the_release_is_taken_with_cudas_libraries(machine: Machine) -> None:
    (machine.offered / "torch-2.0+cpu-py3-none-any.whl").unlink()

    assert machine.installed() == {"torch-2.0", "triton-3.0"}


def test_a_file_with_another_hash_is_refused_and_leaves_no_environment(machine: Machine) -> None:
    machine.lock("engine", f"torch==2.0 --hash=sha256:{'0' * 64}")

    done = machine.create()

    assert done.returncode != 0
    assert "hash" in done.stderr.lower()
    assert not [path for path in machine.cache.glob("modelium/envs/engine-*")]
