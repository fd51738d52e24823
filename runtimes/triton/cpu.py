"""Runs the Triton server of the pytriton wheel on a CPU, with ONNX models.

``python -m runtimes.triton.cpu --environment ENV --work DIR OPTIONS`` replaces itself with that
server, started with OPTIONS. Use it as `triton.command` on hosts without Triton (demo, tests). ENV
is the virtual environment of requirements/triton.lock.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

BACKENDS = Path(__file__).with_name("backends")


def prepare(environment: Path, work: Path) -> tuple[list[str], dict[str, str]]:
    """Write the backends to ``work``; return the server's command line and its environment.

    Raises:
        FileNotFoundError: ``environment`` does not contain the wheel.
    """
    packages = next(environment.glob("lib/python3.*/site-packages"))
    server = packages / "pytriton" / "tritonserver"
    python = packages.parent.name.removeprefix("python")
    backends = work / "backends"
    fresh = work / f"backends.{os.getpid()}"
    shutil.copytree(server / "backends" / "python", fresh / "python")
    stub = server / "python_backend_stubs" / python / "triton_python_backend_stub"
    shutil.copy2(stub, fresh / "python")
    shutil.copytree(BACKENDS / "onnxruntime", fresh / "onnxruntime")
    shutil.rmtree(backends, ignore_errors=True)
    fresh.rename(backends)
    variables = {
        **os.environ,
        "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": ":".join(
            filter(
                None, (str(packages / "nvidia_pytriton.libs"), os.environ.get("LD_LIBRARY_PATH"))
            )
        ),
        "PYTHONPATH": str(packages),
    }
    command = [
        str(server / "bin" / "tritonserver"),
        f"--backend-directory={backends}",
        "--allow-gpu-metrics=false",
    ]
    return command, variables


def main(arguments: Sequence[str]) -> None:
    """Replace this process with the server."""
    parser = argparse.ArgumentParser(prog="python -m runtimes.triton.cpu")
    parser.add_argument("--environment", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for its backends")
    options, passed_on = parser.parse_known_args(arguments)
    work = options.work.absolute()
    try:
        work.mkdir(parents=True, exist_ok=True)
        command, variables = prepare(options.environment.absolute(), work)
    except OSError:  # confined: see `runtimes.process.sandbox`
        work = Path(tempfile.gettempdir()) / "triton"
        work.mkdir(exist_ok=True)
        command, variables = prepare(options.environment.absolute(), work)
    os.execve(command[0], [*command, *passed_on], variables)  # noqa: S606 - no shell is meant


if __name__ == "__main__":
    main(sys.argv[1:])
