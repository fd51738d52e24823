"""The rows by which the nodes of one model tell each other what to do and what is."""

from __future__ import annotations

import pytest

from modelium.models import Deployment, LoadSettings, RuntimeName
from modelium.models.parts import Part
from modelium.store import Store

pytestmark = pytest.mark.slow


def part(*, id: str = "1", node: str = "b", model: str = "m") -> Part:
    deployment = Deployment(
        model=model,
        version=1,
        runtime=RuntimeName.VLLM,
        devices=("a/0", "b/0", "c/0"),
        settings=LoadSettings(pipeline_parallel_size=3),
        started_at=1.0,
    )
    return Part(id=id, node=node, deployment=deployment, addresses=("ha", "hb", "hc"), port=9)


def states(store: Store, model: str = "m") -> dict[str, str]:
    return {part.node: part.state for part in store.parts.of(model)}


def test_each_node_finds_its_own_part_with_its_rank(store: Store) -> None:
    store.parts.want([part(), part(node="c"), part(model="other")])
    (found,) = store.parts.on("c")
    assert (found.model, found.rank, found.state) == ("m", 2, "wanted")
    assert [one.model for one in store.parts.on("b")] == ["m", "other"]
    assert store.parts.on("a") == ()


def test_a_report_is_taken_until_the_part_is_to_end(store: Store) -> None:
    store.parts.want([part()])
    running = part().model_copy(update={"state": "running", "handle": {"pid": 7}})
    assert store.parts.report(running)
    assert store.parts.of("m") == (running,)
    store.parts.end("m")
    assert not store.parts.report(running)
    assert states(store) == {"b": "ending"}
    store.parts.ended(part())
    assert states(store) == {}


def test_a_report_about_an_earlier_attempt_is_not_taken(store: Store) -> None:
    store.parts.want([part(id="1")])
    store.parts.want([part(id="2")])
    assert not store.parts.report(part(id="1").model_copy(update={"state": "failed"}))
    store.parts.ended(part(id="1"))
    assert states(store) == {"b": "wanted"}


def test_only_the_parts_of_that_model_are_to_end(store: Store) -> None:
    store.parts.want([part(), part(model="other")])
    store.parts.end("m")
    assert (states(store), states(store, "other")) == ({"b": "ending"}, {"b": "wanted"})


def test_what_is_left_to_a_silent_node_is_a_stray_there(store: Store) -> None:
    store.parts.want([part()])
    store.parts.stray(part())
    assert states(store) == {}
    assert store.nodes.strays("b") == (part().deployment,)
