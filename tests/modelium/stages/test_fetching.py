"""A node fetches the files of a version from nodes that have them, and keeps nothing that is wrong.

Two nodes on one store, each with a repository of its own; the files go through the real routes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from modelium import analysis
from modelium.config import Config
from modelium.control.adoption import Adoption
from modelium.control.file_share import FileShare
from modelium.errors import FolderMissing, ModeliumError, Unavailable
from modelium.gateway.api import peer_files
from modelium.gateway.forwarding import SENDER, Sender
from modelium.intake import manifest
from modelium.intake.fetched import FetchedCopies
from modelium.intake.repository import ModelRepository
from modelium.models import Node, NodeReport
from modelium.stages import fetching
from modelium.stages.fetching import drop_removed, make_room, provide
from modelium.stages.http_files import HASH, HttpFiles
from modelium.stages.local_files import note_copies
from modelium.stages.removal import remove
from modelium.stages.services import Services
from modelium.stages.tidying import tidy
from modelium.stages.verification import verify
from tests.modelium.conftest import World, config
from tests.samples import tiny_onnx

Change = Callable[[str, bytes], bytes | None]
"""Of a chunk on its way: (node, content) → what arrives; ``None``: an error."""


CHUNK = 16


class Fleet:
    """Nodes of one store, by name; ``here`` is the world's."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.asked: list[str] = []
        """Nodes of which a chunk was asked."""
        self.sent = 0
        """Bytes of chunks."""
        self.change: Change = lambda _node, data: data
        world.services = replace(world.services, node="here")
        self.nodes = {"here": world.services}
        self._join("here", None)

    def add(self, name: str, *, fetch: bool = True, **repository: Any) -> Services:
        """Add a node, with an empty repository at another place."""
        known = config(self.folder / name)
        place = known.orchestration.model_copy(update={"node": name})
        document = {
            "orchestration": place.model_dump(),
            "repository": {"fetch": fetch, **repository},
        }
        settings = Config.model_validate(document)
        world = self.world.services
        files = HttpFiles(client=httpx.AsyncClient(transport=httpx.ASGITransport(self._served)))
        services = replace(
            world, config=settings, node=name, files=files,
            repository=ModelRepository(config=settings.orchestration),
        )  # fmt: skip
        settings.orchestration.state.mkdir(parents=True)
        token = world.store.blocking.nodes.issue_token()
        self.nodes[name] = services
        self._join(name, token)
        return services

    def _join(self, name: str, token: str | None) -> None:
        report = NodeReport(address=f"http://{name}")
        nodes = self.world.store.nodes
        nodes.join(name, identity=name, token=token, report=report)

    async def _served(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer as the node does whose address was called."""
        name = dict(scope["headers"])[b"host"].decode()
        app = FastAPI()
        app.include_router(peer_files.router(files=FileShare(services=self.nodes[name])))
        app.add_exception_handler(
            ModeliumError, lambda _request, exc: JSONResponse(str(exc), status_code=404)
        )
        is_chunk = scope["path"].endswith("/chunk")
        if is_chunk:
            self.asked.append(name)

        async def changed(message: Any) -> None:
            if is_chunk and message["type"] == "http.response.body":
                data = self.change(name, message["body"])
                if data is None:
                    raise httpx.ReadError("cut")
                self.sent += len(data)
                message = {**message, "body": data}
            elif is_chunk:
                kept = [(k, v) for k, v in message["headers"] if k != b"content-length"]
                message = {**message, "headers": kept}
            await send(message)

        await app({**scope, SENDER: Sender(node="node")}, receive, changed)


@pytest.fixture
async def fleet(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """Node ``here`` with the model ``tiny``, in small chunks, and ``there`` without it."""
    monkeypatch.setattr(manifest, "CHUNK_BYTES", CHUNK)
    found = Fleet(world, tmp_path)
    world.rule(enabled=False)
    await world.drop()
    found.nodes["here"] = world.services
    found.add("there")
    return found


def quiet(_phase: str, _share: float | None) -> None:
    """Report to nobody."""


async def have(services: Services, progress: Any = quiet) -> Path:
    """Have the files of ``tiny`` on a node."""
    return await provide(services, await services.store.model("tiny"), progress)


async def test_what_was_fetched_is_what_was_registered(fleet: Fleet) -> None:
    there, said = fleet.nodes["there"], list[tuple[str, float | None]]()
    path = await have(there, lambda *report: said.append(report))
    assert path == there.repository.published / "tiny"
    record = await there.store.model("tiny")
    assert analysis.digest(path) == record.digest
    assert said[0] == ("fetching files", 0.0) and said[-1] == ("fetching files", 1.0)
    assert (await there.store.nodes.copies())["tiny", 1] == {"here", "there"}
    assert {"model.fetching", "model.fetched"} <= {event.kind for event in fleet.world.heard}
    assert not (there.repository.published / fetching.FOLDER / "tiny").exists()
    await verify(there, record)  # its seal is known: no file is read again
    fleet.asked.clear()
    assert await have(there) == path and not fleet.asked


async def test_each_node_knows_the_seals_of_its_own_files(fleet: Fleet) -> None:
    there, here = fleet.nodes["there"], fleet.nodes["here"]
    await have(there)
    record = await there.store.model("tiny")
    registered = await there.store.lineage.seal("tiny", 1)
    await verify(there, record)
    await verify(here, record)
    assert await there.store.lineage.seal("tiny", 1) == registered
    assert there.seals.of("tiny", 1) not in (None, registered)


async def test_a_kill_in_the_middle_costs_what_had_not_arrived(fleet: Fleet) -> None:
    there, whole = fleet.nodes["there"], fleet.nodes["here"].repository.published / "tiny"
    total = sum(file.stat().st_size for file in whole.rglob("*") if file.is_file())
    fleet.change = lambda _node, data: data if fleet.sent < 3 * CHUNK else None
    with pytest.raises(Unavailable, match="what has arrived is kept"):
        await have(there)
    partial = there.repository.published / fetching.FOLDER / "tiny"
    arrived = (partial / "journal").read_text().splitlines()
    assert arrived and not (there.repository.published / "tiny").exists()
    # The kill came while a line was written; and of one chunk the disk has lost the content.
    (partial / "journal").open("a").write("0 ")
    number, index, _hash = arrived[0].split()
    damaged = sorted(f for f in (partial / "files").rglob("*") if f.is_file())[int(number)]
    with damaged.open("r+b") as file:
        file.seek(int(index) * CHUNK)
        file.write(b"\xff\xfe\xfd")
    fleet.sent, fleet.change = 0, lambda _node, data: data
    path = await have(there)
    assert analysis.digest(path) == (await there.store.model("tiny")).digest
    assert fleet.sent == total - CHUNK * (len(arrived) - 1)


async def test_a_damaged_chunk_comes_from_another_node(fleet: Fleet) -> None:
    await have(fleet.nodes["there"])
    third = fleet.add("third")
    fleet.asked.clear()
    fleet.change = lambda node, data: data if node == "there" else b"x" * len(data)
    path = await have(third)
    assert analysis.digest(path) == (await third.store.model("tiny")).digest
    # As it arrives: one chunk for each of those at once, and not all of them over again.
    assert 1 <= fleet.asked.count("here") <= fetching.AT_ONCE < fleet.asked.count("there")


async def test_a_node_that_goes_away_in_the_middle_is_replaced(fleet: Fleet) -> None:
    await have(fleet.nodes["there"])
    third = fleet.add("third")
    fleet.change = lambda node, data: None if node == "here" and fleet.sent > 2 * CHUNK else data
    path = await have(third)
    assert analysis.digest(path) == (await third.store.model("tiny")).digest


@pytest.mark.unfinished
async def test_files_that_rotted_on_one_node_are_taken_from_another(fleet: Fleet) -> None:
    """Its chunks fit their hashes; only the whole tells."""
    here, there = fleet.nodes["here"], fleet.nodes["there"]
    await have(there)
    rotten = here.repository.published / "tiny" / "model.onnx"
    rotten.write_bytes(bytes(rotten.stat().st_size))
    third = fleet.add("third")
    path = await have(third)
    assert analysis.digest(path) == (await third.store.model("tiny")).digest
    there.repository.published.joinpath("tiny", "model.onnx").write_bytes(b"short")
    fourth = fleet.add("fourth")
    await fourth.store.nodes.note_copies("third", [])
    with pytest.raises(Unavailable, match="another digest"):
        await have(fourth)
    assert not (fourth.repository.published / "tiny").exists()


async def test_a_node_with_no_files_and_nobody_to_ask_says_what_to_do(fleet: Fleet) -> None:
    there, idle = fleet.nodes["there"], fleet.add("idle", fetch=False)
    with pytest.raises(Unavailable, match=r"repository\.fetch"):
        await have(idle)
    nodes = there.store.blocking.nodes
    nodes.beat("here", identity="here", report=NodeReport())
    with pytest.raises(Unavailable, match=r"only on here; .* gateway\.advertise"):
        await have(there)
    nodes.note_copies("here", [])
    with pytest.raises(FolderMissing):
        await have(there)


async def test_all_fetches_of_a_node_together_keep_to_the_bandwidth(fleet: Fleet) -> None:
    slow = fleet.add("slow", fetch_mib_per_s=CHUNK / fetching.MIB)  # a chunk a second
    began = slow.clock.monotonic()
    await have(slow)
    chunks = len(fleet.asked)
    assert slow.clock.monotonic() - began == pytest.approx(chunks - 1, abs=1.1)


async def test_two_loads_of_one_version_fetch_it_once(fleet: Fleet) -> None:
    there = fleet.nodes["there"]
    await asyncio.gather(have(there), have(there))
    assert [event.kind for event in fleet.world.heard].count("model.fetched") == 1


async def test_files_that_do_not_fit_are_not_begun(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = fleet.nodes["there"]
    monkeypatch.setattr(fetching, "_free", lambda _folder: 100)
    with pytest.raises(Unavailable, match="make room there"):
        await have(there)
    assert not fleet.asked


async def test_a_list_larger_than_the_disk_is_another_nodes_lie(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, made = fleet.nodes["there"], list[object]()
    files = (manifest.ListedFile(name="a", size=2**62),)

    def lie(_folder: Path, *, digest: str) -> manifest.Manifest:
        return manifest.Manifest(digest=digest, files=files)

    monkeypatch.setattr("modelium.control.file_share.manifest_of", lie)
    monkeypatch.setattr(fetching, "Partial", lambda **given: made.append(given))
    with pytest.raises(Unavailable, match="larger than the disk"):
        await have(there)
    assert not made


async def test_a_node_that_drips_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def drips() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    monkeypatch.setattr("modelium.stages.http_files.WHOLE_S", 0.05)
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, content=drips()))
    node = Node(name="slow", report=NodeReport(address="http://slow"))
    source = HttpFiles(client=httpx.AsyncClient(transport=transport)).of(node)
    assert source is not None
    with pytest.raises(Unavailable, match="TimeoutError"):
        await asyncio.wait_for(source.chunk("tiny", 1, "a", 0, 9), 60)


async def test_room_is_made_of_copies_that_others_have_too(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = fleet.nodes["there"]
    for name in ("older", "loaded", "only"):
        await fleet.world.drop(name, weight=float(len(name)))
        await provide(there, await there.store.model(name), quiet)
    await have(there)
    await there.store.nodes.note_copies("here", [("tiny", 1), ("older", 1), ("loaded", 1)])

    async def used(_services: Services, version: tuple[str, int]) -> bool:
        return version[0] == "loaded"

    monkeypatch.setattr(fetching, "_is_used", used)
    monkeypatch.setattr(fetching, "_free", lambda _folder: 0)
    await provide(there, await there.store.model("older"), quiet)  # loaded last
    assert not await make_room(there, 1)
    left = {path.name for path in there.repository.published.iterdir() if path.name[0] != "."}
    assert left == {"loaded", "only"}
    removed = [e.model for e in fleet.world.heard if e.kind == "copy.removed"]
    assert removed == ["tiny", "older"]
    assert (await there.store.nodes.copies())["older", 1] == {"here"}


async def test_a_removed_model_leaves_no_copy_on_any_node(fleet: Fleet) -> None:
    here, there = fleet.nodes["here"], fleet.nodes["there"]
    await have(there)
    (there.repository.published / fetching.FOLDER / "tiny@2").mkdir(parents=True)
    await here.store.lineage.begin_removal("tiny", by="operator", purge=False)
    await remove(there, model="tiny")  # as the planner, which has a copy only
    assert not (there.repository.published / "tiny").exists()
    assert (here.repository.published / "tiny").exists()
    assert not list((there.repository.published / fetching.FOLDER).iterdir())
    await tidy(here)
    assert not (here.repository.published / "tiny").exists()
    assert here.repository.trash.find("tiny").model == "tiny"
    assert not await here.store.nodes.copies()


async def test_tidying_takes_nothing_that_was_put_in_a_copys_place(fleet: Fleet) -> None:
    there = fleet.nodes["there"]
    path = await have(there)
    path.rename(path.with_name("aside"))
    tiny_onnx(path)
    await drop_removed(there)
    assert path.exists()
    assert not FetchedCopies(repository=there.repository.published).is_copy("tiny")


async def test_no_node_takes_anothers_files_for_lost_or_its_copies_for_new(fleet: Fleet) -> None:
    there = fleet.nodes["there"]
    await Adoption(services=there).poll()  # without the files
    assert (await there.store.model("tiny")).state.value != "failed"
    await have(there)
    before = await there.store.versions()
    await Adoption(services=there).poll()
    assert await there.store.versions() == before
    assert [e.kind for e in fleet.world.heard].count("model.registered") == 1


async def test_only_registered_versions_are_given_and_only_to_nodes(fleet: Fleet) -> None:
    here = fleet.nodes["here"]
    share = FileShare(services=here)
    (here.repository.published / "private").mkdir()
    for model, version in (("private", 1), ("tiny", 2), (".trash", 1)):
        with pytest.raises(ModeliumError):
            await share.manifest(model, version)
    await here.store.lineage.begin_removal("tiny", by="operator", purge=False)
    with pytest.raises(ModeliumError):
        await share.manifest("tiny", 1)
    app = FastAPI()
    app.include_router(peer_files.router(files=share))
    app.add_exception_handler(ModeliumError, lambda _r, exc: JSONResponse({}, exc.status))  # type: ignore[attr-defined]
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here")
    assert (await client.get("/peer/files/tiny@1")).status_code == 403
    assert (await client.get("/peer/files/tiny@1/chunk?file=a&chunk=0")).status_code == 403
    assert HASH.startswith("x-modelium-")


async def test_a_node_notes_what_it_has(fleet: Fleet) -> None:
    here = fleet.nodes["here"]
    assert await here.store.nodes.copies() == {("tiny", 1): {"here"}}
    (here.repository.published / "tiny").rename(here.repository.published / ".gone")
    await note_copies(here)
    assert not await here.store.nodes.copies()
    (here.repository.published / ".gone").rename(here.repository.published / "tiny")
