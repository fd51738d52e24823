"""The six stages together, without Prefect: a drop's whole way."""

from __future__ import annotations

from modelium.stages.evict import evict
from modelium.stages.table import STAGES
from tests.modelium.conftest import World


def test_the_table_has_the_six_stages() -> None:
    assert sorted(STAGES) == ["analyze", "decide", "evict", "ingest", "load", "monitor"]


async def test_a_dropped_model_ends_up_serving(world: World) -> None:
    await world.drop()
    await world.settled("tiny", "ready")
    record = world.store.model("tiny")
    assert record.path.endswith("repository/tiny")
    assert record.digest.startswith("sha256:")
    assert record.profile is not None and record.profile.format.value == "onnx"
    assert world.services.switchboard.upstream("tiny") is not None
    assert not (world.incoming / "tiny").exists()
    assert not list((world.incoming.parent / "repository" / ".staging").iterdir())
    assert world.store.view()[2], "its memory is booked"


async def test_registration_load_and_eviction_are_events(world: World) -> None:
    await world.drop()
    await world.event("model.ready")
    await evict(world.services, models=["tiny"])
    assert world.kinds() == [
        ("model.registered", "tiny"),
        ("model.loading", "tiny"),
        ("model.ready", "tiny"),
        ("model.evicted", "tiny"),
    ]
    assert [e.id for e in reversed(world.store.events.newest())] == [e.id for e in world.heard]
