"""The checker sees each violation that is planted."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelium.analysis import digest as modeliums_digest
from modelium.store import Store
from tests.invariants import Drop, Scene, violations
from tests.invariants.folders import digest
from tests.invariants.journal import Journal

pytestmark = pytest.mark.slow

NOW = 1_000_000.0
TOTAL = 1000


class Planted:
    """A healthy scene: one ready model and one that waits, made with SQL and files alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository, self.incoming = folder / "repository", folder / "incoming"
        self.rejected, self.state = folder / "rejected", folder / "state"
        for made in (self.repository / ".staging", self.incoming, self.rejected, self.state):
            made.mkdir(parents=True)
        self.database = self.state / "modelium.db"
        Store.open(f"sqlite:///{self.database}", now=lambda: NOW).close()
        self.drops: list[Drop] = []
        for name in ("ready", "waiting"):
            self.files(self.repository / name, name)
            self.register(name)
        self.become("ready", "ready")
        self.deploy("ready")
        self.book("ready", 600)

    def scene(self, **given: Any) -> Scene:
        known = {
            "database": self.database,
            "repository": self.repository,
            "incoming": self.incoming,
            "rejected": self.rejected,
            "now": NOW,
            "devices": {"here/cpu": TOTAL},
            "held": (("vllm", "ready"),),
            "drops": tuple(self.drops),
        }
        return Scene(**{**known, **given})

    def sql(self, statement: str, *values: Any) -> None:
        with closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute(statement, values)

    def files(self, folder: Path, content: str) -> Drop:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.bin").write_text(content)
        drop = Drop(name=content, digests=frozenset({digest(folder)}))
        self.drops.append(drop)
        return drop

    def register(self, name: str, version: int = 1, path: Path | None = None) -> None:
        folder = path or self.repository / name
        self.sql(
            "INSERT INTO versions (model, version, path, digest, registered_at)"
            " VALUES (?, ?, ?, ?, 0)",
            *(name, version, str(folder), digest(folder)),
        )
        self.sql(
            "INSERT OR IGNORE INTO models (name, version, state, state_since, registered_at,"
            " priority, priority_ceiling, pinned, failures, reason)"
            " VALUES (?, ?, 'queued', ?, 0, 'medium', 'high', 0, 0, '')",
            *(name, version, NOW),
        )

    def become(self, name: str, state: str, since: float = NOW) -> None:
        self.sql("UPDATE models SET state = ?, state_since = ? WHERE name = ?", state, since, name)

    def deploy(self, model: str, instance: str = "", port: int = 9) -> None:
        document = {
            "model": model,
            "instance": instance or model,
            "runtime": "vllm",
            "devices": ["here/cpu"],
            "upstream": {"port": port},
        }
        self.sql("INSERT INTO deployments VALUES (?, 'vllm', ?)", model, json.dumps(document))

    def book(self, model: str, held: int, *, releasing: bool = False, device: str = "cpu") -> None:
        self.sql(
            "INSERT INTO bookings VALUES (?, ?, ?, 0, ?)", model, f"here/{device}", held, releasing
        )


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return Planted(tmp_path)


def _stuck(p: Planted) -> None:
    p.become("ready", "unloading", NOW - 601)
    p.sql("UPDATE bookings SET releasing = 1")


def _foreign(p: Planted) -> None:
    p.sql("DELETE FROM bookings WHERE model = 'ready'")
    p.book("ready", 1, device="gpu")
    p.sql("UPDATE deployments SET document = replace(document, 'here/cpu', 'here/gpu')")


def _second(p: Planted) -> None:
    p.become("waiting", "ready")
    p.deploy("waiting", instance="ready")
    p.book("waiting", 1)


def _over(p: Planted) -> None:
    p.become("waiting", "ready")
    p.deploy("waiting")
    p.book("waiting", TOTAL - 599)


ALWAYS: dict[str, tuple[Callable[[Planted], object], str]] = {
    "stuck": (_stuck, "ready has been unloading for 601 s"),
    "a deployment without a booking": (
        lambda p: p.sql("DELETE FROM bookings"),
        "ready is ready on ['here/cpu'], booked None",
    ),
    "a booking without a deployment": (
        lambda p: p.sql("DELETE FROM deployments"),
        "ready is ready without a deployment",
    ),
    "a booking of a settled model": (
        lambda p: p.book("waiting", 1),
        "waiting is queued, and has a deployment or memory booked",
    ),
    "a booking of nobody": (
        lambda p: p.book("nobody", 1),
        "nobody is no model, and has a deployment or memory booked",
    ),
    "a promise of a model that stays": (
        lambda p: p.sql("UPDATE bookings SET releasing = 1"),
        "the booking of ready is releasing while it is not on its way out",
    ),
    "a device with too much on it": (_over, "1001 bytes are booked on here/cpu, which has 1000"),
    "no such device": (_foreign, "1 bytes are booked on here/gpu, which is no device"),
    "one instance deployed twice": (_second, "ready is deployed 2 times"),
    "files of another digest": (
        lambda p: (p.repository / "ready" / "model.bin").write_text("other"),
        "the files of ready version 1 are sha256:",
    ),
    "a folder that is gone": (
        lambda p: shutil.rmtree(p.repository / "waiting"),
        "the folder of waiting version 1 is missing",
    ),
    "two versions at one path": (
        lambda p: p.register("other", path=p.repository / "ready"),
        "lie at one path",
    ),
}


AT_REST: dict[str, tuple[Callable[[Planted], object], str]] = {
    "a load that goes on": (lambda p: p.become("ready", "loading"), "ready is still loading"),
    "a removal that goes on": (
        lambda p: p.sql("""UPDATE models SET removal = '{"by": "me"}' WHERE name = 'waiting'"""),
        "waiting is still to be removed",
    ),
    "an open decision": (
        lambda p: p.sql(
            "INSERT INTO decisions VALUES ('d1', 0, ?)",
            json.dumps({"id": "d1", "outcome": "accepted", "plan": {"reason": "room"}}),
        ),
        "decision d1 (room) is still open",
    ),
    "an open intent": (
        lambda p: p.sql(
            "INSERT INTO intents VALUES ('i1', 0, ?)",
            json.dumps({"kind": "load", "model": "ready", "state": "pending"}),
        ),
        "the request to load ready is still open",
    ),
    "an unregistered folder": (
        lambda p: p.files(p.repository / "stray", "stray"),
        "stray is in the repository and not registered",
    ),
    "a staging folder": (
        lambda p: (p.repository / ".staging" / "0af").mkdir(),
        "0af is left of an ingest",
    ),
    "a fragment": (
        lambda p: (p.incoming / ".modelium-copying-1").mkdir(),
        ".modelium-copying-1 is left of a move",
    ),
    "an approved original": (
        lambda p: (p.rejected / ".again-1").mkdir(),
        ".again-1 is left of a move",
    ),
    "a lost drop": (
        lambda p: p.drops.append(Drop(name="gone", digests=frozenset({"sha256:0"}))),
        "the drop gone is lost",
    ),
    "a drop in two places": (
        lambda p: shutil.copytree(p.repository / "ready", p.incoming / "again"),
        "the drop ready is in 2 places: registered as ready@1, incoming as again",
    ),
    "a rejected drop that is registered": (
        lambda p: shutil.copytree(p.repository / "ready", p.rejected / "ready" / "ready"),
        "the drop ready is in 2 places: registered as ready@1, rejected as ready",
    ),
}


def test_a_healthy_scene_has_none(planted: Planted) -> None:
    planted.files(planted.incoming / "arriving", "arriving")
    planted.files(planted.rejected / "bad" / "bad", "bad")
    (planted.rejected / "bad" / "reason.json").write_text("{}")
    (planted.repository / "README.md").write_text("models")

    assert violations(planted.scene(), at_rest=True) == []


@pytest.mark.parametrize("case", ALWAYS)
def test_what_never_may_be(planted: Planted, case: str) -> None:
    plant, sentence = ALWAYS[case]

    plant(planted)

    assert any(sentence in found for found in violations(planted.scene())), case


@pytest.mark.parametrize("case", AT_REST)
def test_what_may_not_be_at_rest(planted: Planted, case: str) -> None:
    plant, sentence = AT_REST[case]

    plant(planted)

    found = violations(planted.scene(), at_rest=True)
    assert any(sentence in each for each in found), (case, found)
    assert violations(planted.scene()) == []


def test_engines_and_deployments_are_the_same(planted: Planted) -> None:
    def found(*held: str) -> list[str]:
        scene = planted.scene(held=tuple(("vllm", name) for name in held))
        return violations(scene, at_rest=True)

    assert found() == ["ready is deployed, and vllm has none"]
    assert found("ready", "stray") == ["vllm runs stray, which is not deployed"]
    assert found("ready", "ready") == ["vllm runs ready 2 times"]


def test_memory_that_is_being_released_may_be_promised(planted: Planted) -> None:
    planted.become("ready", "draining")
    planted.sql("UPDATE bookings SET releasing = 1")
    planted.become("waiting", "loading")
    planted.deploy("waiting")
    planted.book("waiting", TOTAL)

    assert violations(planted.scene()) == []


def test_the_digest_is_that_of_the_store(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "b.bin").write_bytes(b"b")
    (folder / "deep" / "er" / "a.bin").write_bytes(b"a" * 3)
    (folder / "deep.txt").write_bytes(b"")

    assert digest(folder) == modeliums_digest(folder)


def test_what_engines_write_may_be_left_out(planted: Planted) -> None:
    (planted.repository / "ready" / "starts.jsonl").write_text("{}")

    assert len(violations(planted.scene())) == 1
    assert violations(planted.scene(ignored=frozenset({"starts.jsonl"}))) == []


def test_a_file_is_a_folder_of_one(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for at in (tmp_path, tmp_path / "model"):
        (at / "weights.gguf").write_bytes(b"GGUF")

    assert digest(tmp_path / "weights.gguf") == digest(tmp_path / "model")


# --- processes --------------------------------------------------------------------------------

ENGINE = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def engine(planted: Planted) -> Iterator[tuple[str, int]]:
    """A process of an engine: its token and the port that it listens on."""
    token = hashlib.sha256(str(planted.folder).encode()).hexdigest()
    process = subprocess.Popen(
        [sys.executable, "-c", ENGINE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "MODELIUM_ENGINE": token},
        cwd=planted.state,
    )
    assert process.stdout is not None
    yield token, int(process.stdout.readline())
    process.kill()
    process.communicate()


def test_an_engine_of_a_deployed_model_is_no_orphan(
    planted: Planted, engine: tuple[str, int]
) -> None:
    token, port = engine
    planted.sql("DELETE FROM deployments")
    planted.deploy("ready", port=port)
    _record(planted, "ready", token)

    assert violations(planted.scene(state=planted.state), at_rest=True) == []


def test_a_process_that_no_record_names_is_an_orphan(
    planted: Planted, engine: tuple[str, int]
) -> None:
    _token, port = engine

    (found,) = violations(planted.scene(state=planted.state), at_rest=True)

    assert f"belongs to no deployed model, listening on {port}:" in found


def test_a_process_of_a_model_that_is_not_deployed_is_an_orphan(
    planted: Planted, engine: tuple[str, int]
) -> None:
    _record(planted, "waiting", engine[0])

    (found,) = violations(planted.scene(state=planted.state), at_rest=True)

    assert "belongs to no deployed model" in found


def test_a_dead_engine_is_missed(planted: Planted) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # somebody else holds its port
        port = listener.getsockname()[1]
        planted.sql("DELETE FROM deployments")
        planted.deploy("ready", port=port)
        _record(planted, "ready", "dead")

        found = violations(planted.scene(state=planted.state), at_rest=True)

    assert found == [f"ready is deployed on port {port}, where no engine listens"]


def _record(planted: Planted, model: str, token: str) -> None:
    (planted.state / "vllm").mkdir()
    (planted.state / "vllm" / f"{model}.json").write_text(json.dumps({"token": token}))


# --- the client's journal ---------------------------------------------------------------------


@pytest.fixture
def journal() -> Journal:
    opened = Journal(within_s=60.0)
    opened.sent("r1", model="gpt2", at=100.0)
    return opened


def _found(journal: Journal, now: float = 130.0) -> list[str]:
    return list(journal.violations(now=now))


def test_one_answer_in_time_is_fine(journal: Journal, planted: Planted) -> None:
    journal.answered("r1", at=110.0, status=200, model="gpt2")

    assert _found(journal, now=1000.0) == []
    assert violations(planted.scene(journal=journal)) == []


def test_an_honest_refusal_is_fine(journal: Journal) -> None:
    journal.answered("r1", at=110.0, status=503)

    assert _found(journal) == []


def test_what_a_client_notices(journal: Journal, planted: Planted) -> None:
    assert _found(journal, now=161.0) == ["request r1 to gpt2 has no answer after 61 s"]
    journal.answered("r1", at=170.0, status=500, model="bert")
    journal.broke("r1", at=170.0, why="reset")

    assert _found(journal) == [
        "request r1 to gpt2 was answered 2 times",
        "request r1 to gpt2 was answered by bert",
        "request r1 to gpt2 was answered with 500",
        "request r1 to gpt2 was answered after 70 s",
        "request r1 to gpt2 broke off: reset",
    ]
    scene = replace(planted.scene(), journal=journal)
    assert len(violations(scene)) == 5


def test_a_fault_excuses_what_broke_then(journal: Journal) -> None:
    journal.broke("r1", at=110.0, why="reset")
    journal.sent("r2", model="bert", at=105.0)
    journal.broke("r2", at=110.0, why="reset")
    journal.sent("r3", model="gpt2", at=121.0)
    journal.broke("r3", at=122.0, why="reset")

    journal.fault(108.0, 120.0, model="gpt2")

    assert _found(journal) == [
        "request r2 to bert broke off: reset",
        "request r3 to gpt2 broke off: reset",
    ]
