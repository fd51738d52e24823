"""The store: atomic bookings between processes, optimistic plans, one writer per model."""

import multiprocessing
from pathlib import Path

import pytest

from modelium.errors import FailureKind, IllegalTransition, InputError, StalePlan, UnknownModel
from modelium.lifecycle import ModelState
from modelium.models import (
    GIB,
    Deployment,
    Device,
    Fleet,
    Load,
    ModelFormat,
    ModelProfile,
    Plan,
    Priority,
    RuntimeName,
    RuntimeStatus,
    RuntimeSupport,
    Setbacks,
    Task,
    Trigger,
    Unload,
    Upstream,
)
from modelium.policy import Policy, RuntimeRules, validate
from modelium.store import Store

pytestmark = pytest.mark.slow

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


SETBACKS = Setbacks(kind=FailureKind.KILLED, runtimes={RuntimeName.VLLM: 2}, configuration="c")


def opened(url: str) -> Store:
    return Store.open(url, now=lambda: 1000.0)


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
    store.lineage.set_profile(name, store.model(name).version, PROFILE)
    if store.model(name).state is ModelState.INGESTED:
        store.states.mark_analyzed(name)


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


def loaded(store: Store, name: str) -> Deployment:
    """Load ``name`` as the load stage does."""
    store.accept(plan(store, name), snapshot_digest="d", trace={})
    deployment = store.model(name).deployment
    assert deployment is not None
    ready = deployment.model_copy(
        update={
            "upstream": Upstream(host="h", port=1, served_name=name, apis=frozenset({"kserve"})),
            "ready_at": 1000.0,
            "load_s": 2.5,
        }
    )
    store.states.mark_ready(name, ready)
    return ready


def unload(store: Store, name: str) -> Plan:
    """A plan that unloads ``name``."""
    action = Unload(model=name, reason="idle")
    return Plan(author="rules", trigger=Trigger.SWEEP, actions=(action,), revision=store.revision())


def test_an_accepted_plan_books_memory_and_moves_its_model(url: str) -> None:
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
    """Run in another process: wait for its rival, then take a snapshot and try to book."""
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
        process.join(240)
        assert process.exitcode == 0
    bookings = opened(url).view()[2]
    assert len(bookings) == 1, "exactly one of them got the memory"


def test_a_state_changes_along_the_lifecycle_table_alone(url: str) -> None:
    store = opened(url)
    register(store, "a")
    with pytest.raises(IllegalTransition, match="analyzed → ready"):
        store.states.cancel_eviction("a", reason="")
    with pytest.raises(UnknownModel):
        store.states.cancel_eviction("nobody", reason="")


def test_a_failed_load_gives_its_bookings_back_in_the_same_transaction(url: str) -> None:
    store = opened(url)
    register(store, "a")
    store.accept(plan(store, "a"), snapshot_digest="d", trace={})
    store.states.fail("a", reason="no", failures=1, retry_at=9.0, setbacks=SETBACKS)
    model = store.model("a")
    assert model.state is ModelState.FAILED and model.deployment is None
    assert store.view()[2] == ()


def test_an_approval_covers_one_content_only(url: str) -> None:
    store = opened(url)
    store.rules.approve("a", digest="sha256:1", what=["pickle"])
    store.rules.approve("a", digest="sha256:1", what=["pickle", "remote-code"])
    assert store.rules.approvals("sha256:1") == {"pickle", "remote-code"}
    assert store.rules.approvals("sha256:2") == frozenset()


def test_a_new_version_of_a_settled_model_starts_over(url: str) -> None:
    store = opened(url)
    register(store, "a")
    store.accept(plan(store, "a"), snapshot_digest="d", trace={})
    store.states.fail("a", reason="no", failures=3, retry_at=None, setbacks=SETBACKS)
    assert store.model("a").quarantined
    assert store.model("a").setbacks == SETBACKS
    register(store, "a", digest="sha256:2")
    model = store.model("a")
    assert (model.version, model.state) == (2, ModelState.ANALYZED)
    assert (model.failures, model.retry_at, model.setbacks) == (0, None, Setbacks())
    assert store.lineage.next_version("a") == 3


def test_a_new_version_of_a_loaded_model_leaves_it_loaded(url: str) -> None:
    store = opened(url)
    register(store, "a")
    loaded(store, "a")
    register(store, "a", digest="sha256:2")
    model = store.model("a")
    assert model.state is ModelState.READY
    assert model.outdated


def test_registering_the_current_content_again_changes_nothing(url: str) -> None:
    store = opened(url)
    register(store, "a")
    register(store, "a")
    assert store.model("a").version == 1
    assert store.versions() == {"a": 1}


def test_a_load_becomes_ready_with_its_upstream(url: str) -> None:
    store = opened(url)
    register(store, "a")
    deployment = loaded(store, "a")
    model = store.model("a")
    assert (model.state, model.deployment) == (ModelState.READY, deployment)
    assert model.reason == "loaded on ray_serve in 2.5 s"
    store.states.mark_moved(deployment.model_copy(update={"handle": {"pid": 2}}))
    moved = store.model("a").deployment
    assert moved is not None and moved.handle == {"pid": 2}


def test_an_unload_releases_its_memory_at_the_end(url: str) -> None:
    store = opened(url)
    register(store, "a")
    loaded(store, "a")
    store.accept(unload(store, "a"), snapshot_digest="d", trace={})
    assert store.model("a").state is ModelState.DRAINING
    assert [b.releasing for b in store.view()[2]] == [True]
    store.states.start_unloading("a", reason="idle")
    assert [b.releasing for b in store.view()[2]] == [True]
    store.states.release("a", reason="idle", evicted=True)
    model = store.model("a")
    assert (model.state, model.deployment) == (ModelState.UNLOADED, None)
    assert model.evicted_at == 1000.0
    assert store.view()[2] == ()


def test_a_cancelled_eviction_keeps_the_model_and_its_memory(url: str) -> None:
    store = opened(url)
    register(store, "a")
    loaded(store, "a")
    store.accept(unload(store, "a"), snapshot_digest="d", trace={})
    store.states.cancel_eviction("a", reason="busy")
    assert store.model("a").state is ModelState.READY
    assert [b.releasing for b in store.view()[2]] == [False]


def test_a_release_that_no_plan_asked_for_starts_no_cooldown(url: str) -> None:
    store = opened(url)
    register(store, "a")
    loaded(store, "a")
    store.states.start_unloading("a", reason="down")
    store.states.release("a", reason="down", evicted=False)
    assert store.model("a").evicted_at is None


def test_a_requeued_model_waits_from_now_on(url: str) -> None:
    store = opened(url)
    register(store, "a")
    loaded(store, "a")
    model = store.states.requeue("a", reason="lost")
    assert (model.state, model.queued_at, model.evicted_at) == (ModelState.QUEUED, 1000.0, None)
    assert store.view()[2] == ()
    left = store.states.leave_queue("a", reason="asked")
    assert (left.state, left.queued_at) == (ModelState.UNLOADED, None)


def test_a_cancelled_load_counts_as_no_failure(url: str) -> None:
    store = opened(url)
    register(store, "a")
    store.accept(plan(store, "a"), snapshot_digest="d", trace={})
    model = store.states.cancel_load("a", reason="cancelled")
    assert (model.state, model.failures, model.retry_at) == (ModelState.UNLOADED, 0, None)
    assert store.view()[2] == ()


def test_a_model_that_cannot_be_served_is_failed(url: str) -> None:
    store = opened(url)
    register(store, "a")
    assert store.states.mark_unservable("a", reason="pickle").state is ModelState.FAILED
    assert store.model("a").reason == "pickle"


def test_analysis_leaves_a_loaded_model_as_it_is(url: str) -> None:
    store = opened(url)
    register(store, "a")
    loaded(store, "a")
    assert store.states.mark_analyzed("a").state is ModelState.READY


def test_only_a_model_that_exists_can_be_pinned(url: str) -> None:
    store = opened(url)
    register(store, "a")
    assert store.rules.set_pinned("a", True).pinned
    with pytest.raises(UnknownModel, match="nobody"):
        store.rules.set_pinned("nobody", True)


def test_a_change_counts_as_a_revision_and_a_reading_does_not(url: str) -> None:
    store = opened(url)
    before = store.revision()
    store.view()
    store.names()
    assert store.revision() == before
    register(store, "a")
    assert store.revision() > before


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "modelium.db").write_text("this is no database" * 100)
    with pytest.raises(InputError, match="cannot be opened"):
        opened(f"sqlite:///{tmp_path}/modelium.db")
