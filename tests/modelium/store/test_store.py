"""The store: atomic bookings between processes, optimistic plans, one writer per model."""

import multiprocessing
from pathlib import Path

import pytest

from modelium.errors import IllegalTransition, StalePlan, UnknownModel
from modelium.lifecycle import ModelState
from modelium.models import (
    GIB,
    Device,
    Fleet,
    Load,
    ModelFormat,
    ModelProfile,
    Plan,
    Priority,
    Queue,
    RuntimeName,
    RuntimeStatus,
    RuntimeSupport,
    Task,
    Traffic,
    Trigger,
)
from modelium.policy import Policy, RuntimeRules, validate
from modelium.store import Store

PROFILE = ModelProfile(
    format=ModelFormat.ONNX,
    architecture="onnx",
    task=Task.GENERIC,
    weight_bytes=1,
    runtimes=(RuntimeSupport(runtime=RuntimeName.RAY_SERVE, supported=True),),
)
DEVICE = Device(node="n", uuid="GPU-1", kind="gpu", total_bytes=2 * GIB, free_bytes=2 * GIB)
POLICY = Policy(
    max_gpu_memory_utilization=1.0,
    runtimes={RuntimeName.RAY_SERVE: RuntimeRules(enabled=True)},
)


def opened(url: str) -> Store:
    return Store.open(url, now=lambda: 1000.0)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/modelium.db"


def register(store: Store, name: str, digest: str = "sha256:1") -> None:
    store.register(
        name,
        path=Path("/repository") / name,
        digest=digest,
        team=None,
        priority=Priority.LOW,
        priority_ceiling=Priority.HIGH,
        pinned=False,
    )
    store.set_profile(name, store.model(name).version, PROFILE)
    if store.model(name).state is ModelState.INGESTED:
        store.mark_analyzed(name)


def plan(store: Store, name: str, revision: int | None = None) -> Plan:
    load = Load(
        model=name,
        runtime=RuntimeName.RAY_SERVE,
        devices=(DEVICE.id,),
        reserve={DEVICE.id: int(1.5 * GIB)},
        reason="test",
    )
    at = store.revision() if revision is None else revision
    return Plan(
        author="rules", trigger=Trigger.OPERATOR, subject=name, actions=(load,), revision=at
    )


def test_an_accepted_plan_books_and_marks(url: str) -> None:
    store = opened(url)
    register(store, "a")
    decision = store.accept(plan(store, "a"), snapshot_digest="d", trace={})
    _revision, (model,), (booking,) = store.view()
    assert model.state is ModelState.LOADING
    assert model.deployment is not None and model.deployment.devices == (DEVICE.id,)
    assert booking.bytes == int(1.5 * GIB)
    assert store.decisions.get(decision.id).plan.actions[0].model == "a"


def test_a_plan_on_an_old_snapshot_changes_nothing(url: str) -> None:
    store = opened(url)
    register(store, "a")
    old = store.revision()
    register(store, "b")
    with pytest.raises(StalePlan):
        store.accept(plan(store, "a", old), snapshot_digest="d", trace={})
    assert not store.view()[2]
    assert store.model("a").state is ModelState.ANALYZED
    assert store.decisions.newest(model="a") == []


def book(url: str, name: str, barrier: object) -> None:
    """In a process of its own: snapshot, meet the other, then try to book."""
    store = opened(url)
    barrier.wait()  # type: ignore[attr-defined]
    for _ in range(50):
        revision, models, bookings = store.view()
        fleet = Fleet(
            at=1000.0,
            revision=revision,
            devices=(DEVICE,),
            models=models,
            bookings=bookings,
            runtimes=(RuntimeStatus(name=RuntimeName.RAY_SERVE, enabled=True, healthy=True),),
        )
        wanted = plan(store, name, revision)
        if validate(wanted, fleet, POLICY, now=1000.0):
            return
        try:
            store.accept(wanted, snapshot_digest="d", trace={})
            return
        except StalePlan:
            continue


def test_two_processes_cannot_both_book_the_last_gib(url: str) -> None:
    store = opened(url)
    for name in ("a", "b"):
        register(store, name)
    store.close()
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [context.Process(target=book, args=(url, n, barrier)) for n in ("a", "b")]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    bookings = opened(url).view()[2]
    assert len(bookings) == 1, "exactly one of them got the memory"


def test_states_move_along_the_table_alone(url: str) -> None:
    store = opened(url)
    register(store, "a")
    with pytest.raises(IllegalTransition, match="analyzed → ready"):
        store.cancel_eviction("a", reason="")
    with pytest.raises(UnknownModel):
        store.cancel_eviction("nobody", reason="")


def test_release_gives_bookings_back_in_the_same_step(url: str) -> None:
    store = opened(url)
    register(store, "a")
    store.accept(plan(store, "a"), snapshot_digest="d", trace={})
    store.fail_load("a", reason="no", failures=1, retry_at=9.0)
    model = store.model("a")
    assert model.state is ModelState.FAILED and model.deployment is None
    assert store.view()[2] == ()


def test_an_approval_covers_one_content_only(url: str) -> None:
    store = opened(url)
    store.approve("a", digest="sha256:1", what=["pickle"])
    store.approve("a", digest="sha256:1", what=["pickle", "remote-code"])
    assert store.approvals("sha256:1") == {"pickle", "remote-code"}
    assert store.approvals("sha256:2") == frozenset()


def test_queueing_keeps_its_place_in_time(url: str) -> None:
    now = [1.0]
    store = Store.open(url, now=lambda: now[0])
    register(store, "a")
    queue = Plan(
        author="rules",
        trigger=Trigger.DEMAND,
        actions=(Queue(model="a", reason="full"),),
        revision=store.revision(),
    )
    store.accept(queue, snapshot_digest="d", trace={})
    now[0] = 50.0
    again = queue.model_copy(update={"revision": store.revision()})
    store.accept(again, snapshot_digest="d", trace={})
    assert store.model("a").queued_at == 1.0


def test_traffic_and_events_survive_a_restart(url: str) -> None:
    store = opened(url)
    store.history.record_traffic({"a": Traffic(completed=3)})
    store.history.record_traffic({"a": Traffic(completed=5)})
    store.events.append("model.ready", model="a", load_s=1.5)
    store.close()
    again = opened(url)
    assert again.history.traffic()["a"].completed == 5
    (event,) = again.events.newest(model="a")
    assert event.kind == "model.ready" and event.detail == {"load_s": 1.5}


def test_the_tables_are_what_the_migrations_make(url: str) -> None:
    import sqlalchemy as sa
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from modelium.store.schema import metadata

    opened(url).close()
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
