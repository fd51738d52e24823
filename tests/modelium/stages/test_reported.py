"""What other nodes say of themselves becomes part of the snapshot."""

from __future__ import annotations

from modelium.models import Device, Node, NodeReport, RuntimeName, RuntimeStatus
from modelium.models.nodes import SILENT_S
from modelium.stages.reported import all_devices, all_runtimes, held_files
from tests.fakes.fleets import model


def device(node: str) -> Device:
    return Device(node=node, uuid="cpu", kind="cpu", total_bytes=8, free_bytes=5)


def status(node: str = "") -> RuntimeStatus:
    return RuntimeStatus(name=RuntimeName.VLLM, node=node, enabled=True, healthy=True)


def node(name: str, *, silent_s: float = 0.0) -> Node:
    report = NodeReport(devices=(device(name),), runtimes=(status(name),))
    return Node(name=name, silent_s=silent_s, report=report)


def test_devices_are_this_nodes_as_it_reads_them_and_the_others_as_they_reported_them() -> None:
    own = device("a").model_copy(update={"free_bytes": 1})
    found = all_devices((own,), (node("a"), node("b")), here="a")
    assert [(one.id, one.free_bytes, one.healthy) for one in found] == [
        ("a/cpu", 1, True),
        ("b/cpu", 5, True),
    ]


def test_devices_of_a_silent_node_are_unhealthy_not_absent() -> None:
    (found,) = all_devices((), (node("b", silent_s=SILENT_S + 1),), here="a")
    assert (found.id, found.healthy, found.detail) == ("b/cpu", False, "node b is silent")
    assert found.total_bytes == 8


def test_a_node_is_heard_until_its_time_is_over() -> None:
    assert not node("b", silent_s=SILENT_S).silent


def test_runtimes_have_the_name_of_their_node_and_a_silent_nodes_are_left_out() -> None:
    nodes = (node("a"), node("b"), node("c", silent_s=SILENT_S + 1))
    found = all_runtimes((status(),), nodes, here="a")
    assert [one.node for one in found] == ["a", "b"]


def test_alone_a_runtime_needs_no_name_of_its_node() -> None:
    assert all_runtimes((status(),), (), here="") == (status(),)


def test_files_are_those_of_the_current_version_and_twins_have_their_models() -> None:
    copies = {("m", 2): frozenset({"a", "b"}), ("m", 1): frozenset({"c"})}
    models = [model("m", version=2), model("m@1", version=1, twin_of="m"), model("other")]
    assert held_files(models, copies) == {"m": frozenset({"a", "b"}), "m@1": frozenset({"c"})}
