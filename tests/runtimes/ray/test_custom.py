"""Applications of a drop's own code, on a real Ray cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from modelium.errors import FailureKind, LoadFailed, NeedsApproval
from tests import samples
from tests.runtimes.conditions import until
from tests.runtimes.conftest import LocalRay
from tests.runtimes.ray.serving import SOON_S, quiet, request, running, session_of

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("ray"),
]


async def test_an_approved_application_is_built_with_its_arguments_and_goes(
    local_ray: LocalRay, tmp_path: Path
) -> None:
    driver = local_ray.driver
    wanted = request("own", tmp_path, samples.custom_application(tmp_path), allow_remote_code=True)
    before = names(tmp_path)
    loaded = await driver.load(wanted, progress=quiet)
    async with httpx.AsyncClient(timeout=SOON_S) as client:
        answer = await client.put(f"{loaded.upstream.base_url}/any/where", content="x")
    assert answer.json() == {
        "path": "/any/where",
        "method": "PUT",
        "said": "hello",
        "words": ["a", "b"],
        "body": "x",
    }
    assert loaded.upstream.apis == {"openai", "kserve", "generic"}
    found = await running(driver, "own")
    assert found is not None and found.state == "ready" and found.upstream == loaded.upstream
    assert await driver.load(wanted, progress=quiet) == loaded, "it is there already"
    assert len(found.pids) == 2  # of its two deployments
    application = (await session_of(driver).status()).applications["own"]
    # Requests of its deployments to each other are not counted.
    assert sorted(replica.entry for replica in application.replicas) == [False, True]

    async def one_counted() -> bool:
        stats = (await driver.stats())["own"]
        return bool(stats.resident_bytes) and stats.completed == 1

    await until(one_counted)
    await driver.unload("own", handle=loaded.handle, grace_s=5)
    assert await running(driver, "own") is None
    assert names(tmp_path) == before


async def test_without_the_approval_nothing_of_it_runs(local_ray: LocalRay, tmp_path: Path) -> None:
    profile = samples.custom_application(tmp_path)
    with pytest.raises(NeedsApproval, match="approve `remote-code`"):
        await local_ray.driver.load(request("unapproved", tmp_path, profile), progress=quiet)


@pytest.mark.parametrize(
    ("code", "said", "kind"),
    [
        ("import no_such_module", "no_such_module", FailureKind.ENVIRONMENT),
        ("def build(args):\n    return 3", "it must be an application", None),
    ],
)  # fmt: skip
async def test_an_application_that_cannot_be_built_fails_with_its_cause(
    local_ray: LocalRay, tmp_path: Path, code: str, said: str, kind: FailureKind | None
) -> None:
    profile = samples.custom_application(tmp_path, code=code)
    with pytest.raises(LoadFailed, match=said) as failed:
        await local_ray.driver.load(
            request("unsound", tmp_path, profile, allow_remote_code=True), progress=quiet
        )
    assert kind is None or failed.value.kind == kind
    assert await running(local_ray.driver, "unsound") is None


async def test_a_build_that_does_not_end_is_called_off(local_ray: LocalRay, tmp_path: Path) -> None:
    began = tmp_path / "began"
    code = f"import time\nopen({str(began)!r}, 'w').close()\ntime.sleep(3600)"
    profile = samples.custom_application(tmp_path, code=code)
    building = asyncio.Event()
    load = asyncio.create_task(
        local_ray.driver.load(
            request("endless-build", tmp_path, profile, allow_remote_code=True),
            progress=lambda phase, share: building.set() if phase.startswith("building") else None,
        )
    )
    await building.wait()
    assert (await local_ray.driver.status()).healthy  # the connection is not held by it
    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load
    assert "endless-build" not in (await session_of(local_ray.driver).status()).applications


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.rglob("*"))
