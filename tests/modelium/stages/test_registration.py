"""What may be registered: the approvals that count, and what an unfinished folder is."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelium import analysis
from modelium.errors import DropRejected, Unavailable
from modelium.models import Deployment, LoadSettings, RuntimeName
from modelium.stages.registration import check, digest_of
from modelium.stages.unloading import call_unload
from modelium.stages.verification import verify
from tests.modelium.conftest import World
from tests.modelium.stages.rows import configured, with_files
from tests.samples import risky_onnx

pytestmark = pytest.mark.unfinished("models without files")


def risky(world: World, *extra: str) -> Path:
    folder = world.incoming / "tiny"
    risky_onnx(folder, *extra)
    return folder


@pytest.mark.parametrize(
    ("allowed", "approvals"),
    [
        ({}, None),
        ({"allow_remote_code": True}, None),
        ({"allow_pickle": True}, {"pickle"}),
        ({"allow_pickle": True, "allow_remote_code": True}, {"pickle", "remote-code"}),
    ],
)
async def test_what_the_policy_allows_is_approved_of_this_content(
    world: World, allowed: dict[str, bool], approvals: set[str] | None
) -> None:
    folder = risky(world, "weights.pkl")
    world.rule(**allowed)
    if approvals is None:
        with pytest.raises(DropRejected, match="pickle"):
            await check(world.services, "tiny", folder, "sha256:1")
        assert world.store.rules.approvals("sha256:1") == frozenset()
        return
    profile = await check(world.services, "tiny", folder, "sha256:1")
    assert profile.digest == "sha256:1"
    assert world.store.rules.approvals("sha256:1") == approvals
    assert world.store.rules.approvals("sha256:2") == frozenset()


async def test_what_was_approved_before_is_so_again(world: World) -> None:
    folder = risky(world, "weights.pkl")
    world.store.rules.approve("tiny", digest="sha256:1", what=["pickle"])
    assert (await check(world.services, "tiny", folder, "sha256:1")).digest == "sha256:1"
    with pytest.raises(DropRejected, match="pickle"):
        await check(world.services, "tiny", folder, "sha256:2")


async def test_an_unfinished_folder_says_what_is_missing(world: World) -> None:
    folder = world.incoming / "tiny"
    folder.mkdir(parents=True)
    with pytest.raises(DropRejected, match=r"^tiny is incomplete: the folder is empty$") as refused:
        await check(world.services, "tiny", folder, "sha256:1")
    assert refused.value.reason == "incomplete"


async def test_files_are_read_again_only_where_their_seal_has_changed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = with_files(world)
    assert await digest_of(Path(record.path)) == record.digest
    read: list[Path] = []
    digest = analysis.digest

    def counted(folder: Path) -> str:
        read.append(folder)
        return digest(folder)

    monkeypatch.setattr(analysis, "digest", counted)
    await verify(world.services, record)
    assert read == []
    world.store.lineage.set_seal("tiny", 1, "another")
    await verify(world.services, record)
    await verify(world.services, record)
    assert len(read) == 1, "its seal is known again"
    configured(world, "ingest", verify_at_load=False)
    world.store.lineage.set_seal("tiny", 1, "another")
    await verify(world.services, record)
    assert len(read) == 1 and world.store.lineage.seal("tiny", 1) == "another"


async def test_an_unload_is_bounded_by_the_grace_and_names_what_is_off(world: World) -> None:
    deployment = Deployment(
        model="tiny",
        version=1,
        runtime=RuntimeName.TRITON,
        devices=(),
        settings=LoadSettings(),
        started_at=0.0,
    )
    off = r"^triton is switched off in the configuration, and holds tiny$"
    with pytest.raises(Unavailable, match=off):
        await call_unload(world.services, deployment, grace_s=0.0)
    here = deployment.model_copy(update={"runtime": RuntimeName.RAY_SERVE})
    await call_unload(world.services, here, grace_s=7.0)
    assert world.runtime.unloads == [("tiny", 7.0)]
