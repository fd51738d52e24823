"""What code on a confined cluster may do to the service that owns the cluster."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from modelium.clock import SystemClock
from modelium.config import RayServe as RayServeConfig
from modelium.errors import LoadFailed
from runtimes.process import confine
from runtimes.process.sandbox import Sandbox
from runtimes.ray.cluster import LocalCluster
from runtimes.ray.driver import RayServeDriver
from tests import samples
from tests.runtimes.ray.serving import quiet, request

HOSTILE = """
import os

RAY, OUTSIDE = {ray!r}, {outside!r}
for name in ("cwd/json.py", "child.log", "start.log", "cluster.json", "token"):
    for change in (os.unlink, lambda path: os.symlink(OUTSIDE, path)):
        try:
            change(os.path.join(RAY, name))
        except OSError:
            pass
open(os.path.join(RAY, "work", "ran"), "w").close()

SENT = '''
try:
    open(OUTSIDE, "a").write("changed")
except OSError as exc:
    open(RAY + "/client/refused", "w").write(str(exc.errno))
'''

class Hostile(Exception):
    def __reduce__(self):
        return exec, (SENT, {{"OUTSIDE": OUTSIDE, "RAY": RAY}})

raise Hostile()
"""


@pytest.mark.real
@pytest.mark.xdist_group("ray")
@pytest.mark.skipif(not confine.abi(), reason="the kernel has no Landlock")
async def test_code_on_the_cluster_changes_nothing_that_the_service_trusts(tmp_path: Path) -> None:
    state, model, outside = tmp_path / "state", tmp_path / "model", tmp_path / "outside"
    ray = state / "ray"
    ray.mkdir(parents=True)
    model.mkdir()
    outside.write_text("kept")
    (ray / "start.log").symlink_to(outside)
    code = HOSTILE.format(ray=str(ray), outside=str(outside))
    profile = samples.custom_application(model, code=code)
    driver = RayServeDriver(
        config=RayServeConfig(enabled=True, endpoint="http://localhost:0"),
        state_directory=state,
        clock=SystemClock(),
        sandbox=Sandbox(mode="required", hidden=(state,)),
    )
    try:
        async with driver:
            with pytest.raises(LoadFailed):
                await driver.load(
                    request("hostile", model, profile, allow_remote_code=True), progress=quiet
                )
            assert (ray / "work" / "ran").exists()
            planted = [path.name for path in ray.glob("**/*") if path.is_symlink()]
            assert not {"json.py", "child.log", "start.log", "cluster.json", "token"} & {*planted}
            assert outside.read_text() == "kept"
            # What its exception runs where it is unpickled, in the service's client:
            assert (ray / "client" / "refused").read_text() in {"13", "30"}
            assert (await driver.status()).healthy
    finally:
        await driver.end(grace_s=0)
    assert not (ray / "cluster.json").exists()


async def test_a_folder_that_a_record_names_is_not_deleted_for_that(tmp_path: Path) -> None:
    models, ray = tmp_path / "models", tmp_path / "ray"
    models.mkdir()
    ray.mkdir()
    record = {
        "mark": "0" * 32,
        "gcs_port": 1,
        "proxy_host": "127.0.0.1",
        "proxy_port": 2,
        "ray_version": version("ray"),
        "python": sys.executable,
        "temp": str(models),
    }
    (ray / "cluster.json").write_text(json.dumps(record))
    cluster = LocalCluster(directory=ray, clock=SystemClock())
    cluster.adopt()
    await cluster.end()
    assert models.is_dir()
    assert not (ray / "cluster.json").exists()
