"""The machines that share a store, as commands show them."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import Mock

import pytest
from rich.console import Console

from modelium.cli import node_tables, nodes, tables
from modelium.control.node_operations import NodeDetail, NodeRow
from modelium.errors import InputError
from modelium.models import GIB, Device, NodeReport, RuntimeName, RuntimeStatus
from tests.modelium.cli.conftest import Run


def row(name: str, *, version: str = "0.9.1", **given: Any) -> dict[str, Any]:
    devices = tuple(
        Device(
            node=name, uuid=f"g{i}", kind="gpu", index=i, name="H100",
            total_bytes=80 * GIB, free_bytes=50 * GIB,
        )
        for i in range(2)
    )  # fmt: skip
    runtimes = (
        RuntimeStatus(name=RuntimeName.VLLM, enabled=True, healthy=True, version="0.32"),
        RuntimeStatus(name=RuntimeName.TRITON, enabled=True, healthy=False, detail="it is away"),
    )
    report = NodeReport(
        version=version,
        devices=devices,
        runtimes=runtimes,
        activity="loads qwen",
        address="http://x",
    )
    fields: dict[str, Any] = {"name": name, "state": "active", "report": report, **given}
    return NodeRow(**fields).model_dump(mode="json")


def shown(renderable: Any, width: int) -> str:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


ROWS = [
    row("gpu-rack-0001", plans=True, here=True, models=("m",)),
    row("b", version="0.9.0", state="cordoned"),
    row("c", silent=True, heartbeat_s=42.0),
]


def test_the_table_fits_80_columns() -> None:
    lines = shown(node_tables.nodes(ROWS, width=80), 80).splitlines()
    head, first, second, third = lines[:4]
    assert head.split() == ["node", "state", "devices", "memory", "models", "version", "beat"]
    assert first.split() == [
        "gpu-rack-0001*",
        "active",
        "2",
        "gpu",
        "60/160",
        "GiB",
        "1",
        "0.9.1",
        "0",
        "s",
    ]
    assert "cordoned" in second
    assert "0.9.0 ≠" in second, "another version than this node's"
    assert "silent 42 s" in third
    assert "≠" not in first + third
    below = "\n".join(lines[4:])
    assert "gpu-rack-0001: vllm ✓, triton ✗; loads qwen" in below
    assert "c: vllm ✓, triton ✗; what it has stays booked" in below


def test_a_wide_table_has_runtimes_and_work_in_columns() -> None:
    lines = shown(node_tables.nodes(ROWS, width=160), 160).splitlines()
    assert len(lines) == 4
    assert lines[1].rstrip().endswith("vllm ✓, triton ✗  loads qwen")


def test_one_machine_is_shown_with_what_stays_and_why() -> None:
    node = NodeRow.model_validate(row("b", state="draining", models=("m", "n")))
    detail = NodeDetail(node=node, leaving=("m",), staying={"n": "no other node has room"})
    text = "\n".join(shown(line, 80) for line in node_tables.detail(detail.model_dump(mode="json")))
    assert "b is draining" in text
    assert "gpu 1" in text
    assert "it is away" in text
    assert "m leaves next" in text
    assert "n stays: no other node has room" in text


def test_models_are_listed_with_their_node_where_there_are_several() -> None:
    model = {
        "name": "m", "version": 1, "state": "ready", "pinned": False, "runtime": "vllm",
        "devices": ["0"], "booked_bytes": GIB, "resident_bytes": GIB, "idle_s": 1.0, "qps": 0.0,
        "reason": "",
    }  # fmt: skip
    assert "node" not in shown(tables.models([model], width=80), 80)
    several = {**model, "nodes": ["gpu-1"]}
    for width in (80, 200):
        assert "gpu-1" in shown(tables.models([several], width=width), width)


async def test_one_machine_lists_itself_and_says_what_the_rest_needs(run: Run) -> None:
    listed = await run("nodes")
    assert listed.exit_code == 0, listed.output
    assert "active" in listed.output
    (only,) = json.loads((await run("nodes", "--json")).output)
    assert only["plans"]
    assert only["here"]
    assert (await run("nodes", "show", only["name"])).exit_code == 0
    for command in (["cordon", "x"], ["uncordon", "x"], ["drain", "x"], ["remove", "x"], ["token"]):
        refused = await run("nodes", *command)
        assert isinstance(refused.exception, InputError), command
        assert "PostgreSQL (store.url)" in str(refused.exception)


@pytest.mark.parametrize("name", ["nope", "a/b"])
async def test_an_unknown_machine_is_said_to_be(run: Run, name: str) -> None:
    refused = await run("nodes", "show", name)
    assert isinstance(refused.exception, InputError)


def test_a_drain_waits_until_what_left_is_loaded_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = iter(["queued", "loading", "ready"])
    service = Mock(get=lambda _path: [{"name": "m", "state": next(seen)}])
    monkeypatch.setattr(nodes, "LOOK_S", 0.0)
    assert nodes._arrived(service, {"m", "removed"}) == []
    assert list(seen) == []
    monkeypatch.setattr(nodes, "ARRIVES_S", 0.0)
    for state in ("queued", "failed"):
        stuck = Mock(get=lambda _path, state=state: [{"name": "m", "state": state}])
        assert nodes._arrived(stuck, {"m"}) == ["m"]
