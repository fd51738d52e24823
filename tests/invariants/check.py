"""All invariants over one scene."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.invariants import folders, ledger, processes
from tests.invariants.database import Tables, read
from tests.invariants.journal import Journal


@dataclass(frozen=True, kw_only=True, slots=True)
class Drop:
    """Something that was put into the drop zone; no two of a scene have the same content."""

    name: str
    digests: frozenset[str]
    """Of its content; of an archive also that of the file itself, as a folder of one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What is looked at."""

    database: Path
    repository: Path
    incoming: Path
    rejected: Path
    now: float
    """Seconds since the epoch on the clock that the service has."""
    devices: Mapping[str, int]
    """Total bytes by id."""
    held: tuple[ledger.Engine, ...] | None = None
    """What the runtimes run; ``None``: not known."""
    drops: tuple[Drop, ...] = ()
    bounds: Mapping[str, float] = field(default_factory=lambda: ledger.BOUNDS_S)
    state: Path | None = None
    """The service's state folder, where its engines are processes."""
    tokens: frozenset[str] = frozenset()
    """Those of its engines that were seen before, which may be dead by now."""
    journal: Journal | None = None
    ignored: frozenset[str] = frozenset()
    """Files that engines write into the folders of their models."""


def violations(scene: Scene, *, at_rest: bool = False) -> list[str]:
    """Return what is wrong, each a sentence.

    ``at_rest``: nothing is going on, so that no drop is under way, no state transitional, and
    what the store has loaded is what runs.
    """
    return list(_violations(scene, read(scene.database), at_rest=at_rest))


def _violations(scene: Scene, tables: Tables, *, at_rest: bool) -> Iterator[str]:
    yield from ledger.stuck(tables, now=scene.now, bounds=scene.bounds)
    yield from ledger.unbooked(tables)
    yield from ledger.overbooked(tables, scene.devices)
    yield from ledger.doubled(tables, scene.held or ())
    yield from folders.changed(tables, ignored=scene.ignored)
    if scene.journal is not None:
        yield from scene.journal.violations(now=scene.now)
    if at_rest:
        yield from ledger.unsettled(tables, scene.held)
        yield from folders.unregistered(tables, scene.repository)
        yield from folders.fragments(scene.repository, scene.incoming, scene.rejected)
        drops = [(drop.name, drop.digests) for drop in scene.drops]
        yield from folders.misplaced(tables, drops, folders=(scene.incoming, scene.rejected))
    if at_rest and scene.state is not None:
        yield from _processes(scene, scene.state, tables)


def _processes(scene: Scene, state: Path, tables: Tables) -> Iterator[str]:
    tokens = processes.recorded(state)
    found = processes.belonging(
        processes.engines(),
        state=state,
        repository=scene.repository,
        tokens=scene.tokens | tokens.keys(),
    )
    deployed = {d["instance"] or d["model"]: d for d in tables.deployments}
    models = {version["model"] for version in tables.versions}
    servers = {name for name in tokens.values() if name.partition("@")[0] not in models}
    yield from processes.orphans(found, wanted=tokens, allowed=deployed.keys() | servers)
    own = set(tokens.values()) & deployed.keys()
    ports = {name: deployed[name]["upstream"]["port"] for name in own if deployed[name]["upstream"]}
    yield from processes.silent(found, ports)
