"""Measures the time from a drop to its load command, and CPU and memory of an idle Modelium.

Run from the repository root: ``python -m bench.drops [--drops 20] [--idle-s 300]``. Small ONNX
models are dropped into a real ``modelium up``, one after another; each is unloaded before the next.
The baseline is the same run without Prefect: the difference is the cost of recording each stage.
The last line is the goal.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

from bench.goals import Goal, print_goals
from modelium.store import Store

QUIET_S = 1.0
PHASES = ("ingest", "analyze + decide", "load command", "load itself")


class Service:
    """A ``modelium up`` in a separate folder."""

    def __init__(self, folder: Path, *, prefect: bool) -> None:
        self.folder = folder
        self.prefect = prefect
        settings = {
            "orchestration": {
                "model_repository": str(folder / "repository"),
                "incoming_directory": str(folder / "incoming"),
                "policies": {"min_residency_seconds": 0.0},
                "metrics": {"prometheus_port": 0},
            },
            "ingest": {"quiet_period_seconds": QUIET_S},
            "ray_serve": {"enabled": True, "endpoint": "http://127.0.0.1:0"},
            "gateway": {"port": 0},
            "prefect": {"enabled": prefect, "port": 0},
        }
        self.config = folder / "modelium.yaml"
        self.config.write_text(yaml.safe_dump(settings))
        self.process: subprocess.Popen[bytes]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the service within the context; with Prefect, from when stages are recorded."""
        log = self.folder / "service.log"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "modelium", "up", "--config", str(self.config)],
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        wanted = "stages are recorded" if self.prefect else ""
        endpoints = self.folder / "state" / "endpoints.json"
        try:
            while not endpoints.exists() or wanted not in log.read_text():
                if self.process.poll() is not None:
                    raise RuntimeError(log.read_text()[-4000:])
                time.sleep(0.2)
            yield
        finally:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(120)

    def store(self) -> Store:
        """Open the service's store."""
        return Store.open(f"sqlite:///{self.folder}/state/modelium.db", now=time.time)

    def cli(self, *arguments: str) -> None:
        """Run an operator's command."""
        command = [sys.executable, "-m", "modelium", *arguments, "--config", str(self.config)]
        subprocess.run(command, check=True, capture_output=True, timeout=300)


def drop(folder: Path, weight: float) -> float:
    """Write the model ``y = x · W``; return the time at which its last byte was written."""
    matrix = numpy_helper.from_array(np.full((4, 3), weight, dtype=np.float32), "W")
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
        for name, width in (("x", 4), ("y", 3))
    ]
    node = helper.make_node("MatMul", ["x", "W"], ["y"])
    graph = helper.make_graph([node], "tiny", ends[:1], ends[1:], [matrix])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir(parents=True)
    onnx.save(made, str(folder / "model.onnx"))
    return time.time()


def phases(store: Store, model: str, written: float) -> tuple[float, ...]:
    """Wait until ``model`` is ready; return the seconds of each of the `PHASES`."""
    while True:
        events = {event.kind: event for event in store.events.newest(model=model)}
        if "model.failed" in events or "drop.rejected" in events:
            raise RuntimeError(f"{model} did not load: {events}")
        if "model.ready" in events:
            break
        time.sleep(0.05)
    ready = events["model.ready"]
    decided = next(d.at for d in store.decisions.newest(model=model) if d.plan.trigger == "ingest")
    began = ready.at - float(ready.detail["load_s"])
    registered = events["model.registered"].at
    moments = (written + QUIET_S, registered, decided, began, ready.at)
    return tuple(after - before for before, after in pairwise(moments))


def measure(folder: Path, *, prefect: bool, drops: int, idle_s: float) -> list[tuple[float, ...]]:
    """Drop models, wait until each is ready and unload it; then measure the idle service."""
    service = Service(folder, prefect=prefect)
    with service.running():
        store = service.store()
        rows = []
        for number in range(drops):
            name = f"drop-{number}"
            written = drop(folder / "incoming" / name, float(number))
            rows.append(phases(store, name, written))
            service.cli("unload", name)
        store.close()
        if idle_s:
            _idle(service.process.pid, idle_s)
    service.cli("down")
    return rows


def _idle(pid: int, seconds: float) -> None:
    """Print CPU and memory of the idle service and of its Prefect server."""
    watched = {"Modelium": pid}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        words = entry.read_bytes().split(b"\0") if entry.exists() else []
        if b"flows.runner.server" in words and str(pid).encode() in words:
            watched["Prefect server"] = int(entry.parent.name)
    time.sleep(10)
    before = {name: _cpu_s(pid) for name, pid in watched.items()}
    time.sleep(seconds)
    for name, own in watched.items():
        share = (_cpu_s(own) - before[name]) / seconds
        status = Path(f"/proc/{own}/status").read_text()
        rss = int(status.split("VmRSS:")[1].split()[0]) / 1024
        print(f"idle for {seconds:.0f} s: {name:15} {share:6.1%} of a core, {rss:5.0f} MiB")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drops", type=int, default=20)
    parser.add_argument("--idle-s", type=float, default=300.0)
    options = parser.parse_args()
    found = {}
    for prefect in (True, False):
        with tempfile.TemporaryDirectory(prefix="modelium-bench-") as name:
            found[prefect] = measure(
                Path(name), prefect=prefect, drops=options.drops, idle_s=options.idle_s
            )
    print(f"{options.drops} drops; seconds after the quiet period, median (95th percentile)")
    print(f"{'':24} {'recorded':>16} {'unrecorded':>16} {'added':>7}")
    commands = ("last byte → load command", 3)
    for name, rows in (
        *((phase, [[r[i] for r in found[p]] for p in found]) for i, phase in enumerate(PHASES)),
        (commands[0], [[sum(r[: commands[1]]) for r in found[p]] for p in found]),
    ):
        medians = [statistics.median(row) for row in rows]
        shown = [
            f"{m:7.2f} ({np.percentile(r, 95):5.2f})" for m, r in zip(medians, rows, strict=True)
        ]
        print(f"{name:24} {shown[0]:>16} {shown[1]:>16} {medians[0] - medians[1]:+7.2f}")
    p95_s = float(np.percentile([sum(row[: commands[1]]) for row in found[True]], 95))
    print_goals(
        Goal(name="drop-to-command-p95", measured=p95_s, relation="≤", required=1.5, unit="s")
    )


if __name__ == "__main__":
    main()
