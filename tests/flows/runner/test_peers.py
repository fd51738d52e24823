"""Several nodes on one Prefect server, which has a PostgreSQL beside it, as their store has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.settings import temporary_settings
from prefect.states import Pending, Scheduled

from flows.runner import registration
from flows.runner.peers import GONE_S, Peers, is_older, present
from flows.runner.queues import queue_of, remove_others
from flows.runner.registration import Owner, claim, owner_of, recover_absent, register
from flows.runner.service import PrefectService
from flows.table import FLOWS
from modelium.errors import StoreUnavailable
from modelium.models import Node, NodeReport
from modelium.ports import Stage
from modelium.store import Store
from modelium.store.nodes import digest
from tests import postgresql
from tests.fakes.clock import START
from tests.flows.conftest import (
    AUTH,
    Scenes,
    Server,
    ended,
    eventually,
    living,
    only_run,
    shell,
)

pytestmark = [pytest.mark.xdist_group("postgresql"), pytest.mark.timeout(300)]

ASKED = 10


@dataclass(kw_only=True)
class Machines:
    """The servers of all tests here, and the store of the one that runs."""

    database: postgresql.Server
    api_url: str
    store_url: str = ""

    @contextmanager
    def store(self, node: str) -> Iterator[Store]:
        """Yield the store as ``node`` sees it, which has joined."""
        with ExitStack() as stack:
            store = Store.open(self.store_url, now=lambda: START)
            stack.callback(store.close)
            token = store.nodes.issue_token()
            store.nodes.join(node, identity=digest(node), token=token, report=NodeReport())
            yield store


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with postgresql.server() as database:
        url = database.database(migrated=False).replace("postgresql:", "postgresql+asyncpg:")
        folder = tmp_path_factory.mktemp("prefect-postgresql")
        with Server(folder, PREFECT_SERVER_DATABASE_CONNECTION_URL=url) as server:
            yield Machines(database=database, api_url=server.api_url)


@pytest.fixture
def machines(servers: Machines) -> Machines:
    return replace(servers, store_url=servers.database.clocked())


@pytest.fixture
async def client(machines: Machines) -> AsyncIterator[PrefectClient]:
    with temporary_settings({"api.url": machines.api_url, "api.auth_string": AUTH}):
        async with get_client() as client:
            yield client


@dataclass(kw_only=True)
class OnNode:
    """One node's Prefect side."""

    store: Store
    home: PrefectService
    scenes: Scenes = field(default_factory=Scenes)

    def loads(self) -> list[str]:
        return [given["model"] for given in self.scenes.seen("load")]


@asynccontextmanager
async def node(machines: Machines, name: str, folder: Path) -> AsyncIterator[OnNode]:
    scenes = Scenes()
    with machines.store(name) as store:
        peers = Peers(
            node=name, plans=lambda: store.planner.epoch is not None, nodes=store.nodes.all
        )
        async with living(machines.api_url, scenes, folder / name, peers=peers) as home:
            yield OnNode(store=store, home=home, scenes=scenes)


@asynccontextmanager
async def two(machines: Machines, folder: Path) -> AsyncIterator[tuple[OnNode, OnNode]]:
    """Two nodes that start at the same time."""
    first, second = node(machines, "one", folder), node(machines, "two", folder)
    one, other = await asyncio.gather(first.__aenter__(), second.__aenter__())
    try:
        yield one, other
    finally:
        await asyncio.gather(first.__aexit__(None, None, None), second.__aexit__(None, None, None))


async def ask_for(client: PrefectClient, stage: Stage, model: str, **given: Any) -> FlowRun:
    deployment = await client.read_deployment_by_name(f"{stage}/{stage}")
    return await client.create_flow_run_from_deployment(
        deployment.id, parameters={"model": model}, **given
    )


@pytest.mark.real
async def test_two_nodes_register_at_once_and_each_run_is_taken_by_one(
    machines: Machines, client: PrefectClient, tmp_path: Path
) -> None:
    async with two(machines, tmp_path) as (one, other):
        queues = await client.read_work_queues(work_pool_name="modelium")
        assert {queue.name for queue in queues} == {"default", "control", "one", "two"}
        deployments = await client.read_deployments()
        assert {d.name: len(d.schedules) for d in deployments} == {
            **dict.fromkeys(FLOWS, 0), "monitor": 1, "evict": 1,
        }  # fmt: skip
        names = [f"m{number}" for number in range(ASKED)]
        asked = await asyncio.gather(*(ask_for(client, "load", name) for name in names))
        for run in asked:
            state = (await ended(client, run.id)).state
            assert state is not None and state.is_completed()
        assert sorted(one.loads() + other.loads()) == names

        own = await other.home.runner.run("load", model="own", decision="d")
        assert own.outcome == "nothing"
        run = await only_run(client, "load own")
        assert run.work_queue_name == "two"
        assert "node:two" in run.tags


@pytest.mark.real
async def test_pinned_runs_and_sweeps_on_schedule_are_taken_by_one_certain_node(
    machines: Machines, client: PrefectClient, tmp_path: Path
) -> None:
    async with two(machines, tmp_path) as (one, other):
        code, output = await shell(
            *("deployment", "run", "load/load", "--param", "model=pinned"),
            *("--job-variable", "node=two"),
            PREFECT_API_URL=machines.api_url,
            PREFECT_HOME=str(tmp_path),
        )
        assert code == 0, output
        asked = [await ask_for(client, "load", f"q{n}", work_queue_name="one") for n in range(3)]
        asked += [
            await ask_for(client, "load", f"v{n}", job_variables={"node": "two"}) for n in range(3)
        ]
        runs = [await ended(client, run.id) for run in asked]
        assert sorted(one.loads()) == ["q0", "q1", "q2"]
        assert {"node:one" in run.tags for run in runs[:3]} == {True}
        assert {"node:two" in run.tags for run in runs[3:]} == {True}
        await only_run(client, "load pinned")
        assert sorted(other.loads()) == ["pinned", "v0", "v1", "v2"]

        missed = await sweep(client, due=datetime.now(UTC) - timedelta(hours=1))

        async def dropped() -> bool:
            try:
                await client.read_flow_run(missed.id)
            except ObjectNotFound:
                return True
            return False

        await eventually(dropped)  # nobody plans
        with one.store.planner.sought("one", lambda: None):
            await ended(client, (await sweep(client)).id)
        with other.store.planner.sought("two", lambda: None):
            await ended(client, (await sweep(client)).id)
        assert len(one.scenes.seen("monitor")) == len(other.scenes.seen("monitor")) == 1


async def sweep(client: PrefectClient, due: datetime | None = None) -> FlowRun:
    """What Prefect's scheduler does."""
    monitor = await client.read_deployment_by_name("monitor/monitor")
    when: State[Any] = Scheduled(scheduled_time=due or datetime.now(UTC))
    return await client.create_flow_run_from_deployment(
        monitor.id, state=when, tags=["auto-scheduled"]
    )


@pytest.mark.real
async def test_what_a_node_left_is_ended_when_it_is_gone_and_removed_with_it(
    machines: Machines, client: PrefectClient, tmp_path: Path
) -> None:
    dead = str(Owner(node="two", pid=1, started=1))
    async with node(machines, "two", tmp_path):
        pass
    load = await client.read_deployment_by_name("load/load")
    claimed = await client.create_flow_run_from_deployment(
        load.id, parameters={"model": "a"}, state=claim(dead)
    )
    waiting = await ask_for(client, "load", "b", work_queue_name="two")

    async def states() -> list[str | None]:
        ids = (claimed.id, waiting.id)
        return [(await client.read_flow_run(run_id)).state_name for run_id in ids]

    with machines.store("one") as store, store.planner.sought("one", lambda: None):

        async def end() -> None:
            nodes = store.nodes.all()
            await recover_absent(client, pool="modelium", present=present(nodes))
            await remove_others(client, pool="modelium", nodes={node.name for node in nodes})

        postgresql.set_time(machines.store_url, START + GONE_S - 1)
        await end()
        assert await states() == ["Pending", "Scheduled"], "it may come back"
        postgresql.set_time(machines.store_url, START + GONE_S + 1)
        await end()
        assert await states() == ["Crashed", "Scheduled"], "its own queue waits for it"
        store.nodes.remove("two")
        here = Peers(node="one", plans=lambda: True, nodes=store.nodes.all)
        async with living(machines.api_url, Scenes(), tmp_path / "one", peers=here):

            async def cancelled() -> bool:
                return await states() == ["Crashed", "Cancelled"]

            await eventually(cancelled)  # as the first thing that a node does which plans
        queues = await client.read_work_queues(work_pool_name="modelium")
        assert "two" not in {queue.name for queue in queues}
        workers = await client.read_workers_for_work_pool("modelium")
        assert "two" not in {worker.name for worker in workers}


@pytest.mark.real
async def test_an_older_node_leaves_the_deployments_of_a_newer_one(
    client: PrefectClient, tmp_path: Path
) -> None:
    text = registration.MANIFEST.read_text()
    newer = tmp_path / "newer.yaml"
    newer.write_text(text.replace("Load a model", "Load one model"))
    await register(client, flows=FLOWS, pool="modelium", node="one", manifest=newer)
    await register(client, flows=FLOWS, pool="modelium", node="two", outdated=True)
    known = await client.read_deployment_by_name("load/load")
    assert known.description is not None and known.description.startswith("Load one model")
    await register(client, flows=FLOWS, pool="modelium", node="two")
    known = await client.read_deployment_by_name("load/load")
    assert known.description is not None and known.description.startswith("Load a model")


def test_a_node_is_older_than_the_newest_that_is_known() -> None:
    def at(*versions: str) -> list[Node]:
        return [Node(name=f"n{i}", report=NodeReport(version=v)) for i, v in enumerate(versions)]

    assert is_older("0.9.0", at("0.9.0", "0.10.0"))
    assert is_older("0.9.0", at("0.9.1rc1"))
    assert not is_older("0.10.0", at("0.9.0", "0.10.0", "", "of my own"))


async def test_a_store_that_does_not_answer_may_have_a_newer_node() -> None:
    def fail() -> tuple[Node, ...]:
        raise StoreUnavailable("no connection")

    assert await Peers(node="one", plans=lambda: False, nodes=fail).outdate()


def test_a_claim_says_whose_it_is_before_the_run_begins() -> None:
    owner = Owner(node="one", pid=7, started=9)
    run = FlowRun(id=uuid4(), flow_id=uuid4(), state=claim(str(owner)))
    assert owner_of(run) == owner
    assert owner_of(run.model_copy(update={"state": Pending()})) is None
    later = run.model_copy(update={"infrastructure_pid": "two:1:1"})
    assert owner_of(later) == Owner(node="two", pid=1, started=1)


@pytest.mark.parametrize(
    ("pin", "auto", "plans", "taken"),
    [
        ("one", False, False, True),
        ("two", False, True, False),
        (None, True, False, False),
        (None, True, True, True),
        (None, False, False, True),
    ],
)
def test_which_runs_a_node_takes(pin: str | None, auto: bool, plans: bool, taken: bool) -> None:
    run = FlowRun(
        flow_id=uuid4(),
        tags=["auto-scheduled"] if auto else [],
        job_variables={"node": pin} if pin else {},
        state=Scheduled(scheduled_time=datetime.now(UTC)),
    )
    assert Peers(node="one", plans=lambda: plans, nodes=tuple).takes(run) is taken


def test_a_node_that_is_called_like_a_shared_queue_has_one_of_its_own() -> None:
    assert queue_of("gpu-1") == "gpu-1"
    assert queue_of("default") == "node-default"
