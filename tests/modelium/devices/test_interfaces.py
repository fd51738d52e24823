"""Which interface an address belongs to."""

from __future__ import annotations

from modelium.devices.interfaces import interface_of


def test_an_address_of_this_machine_is_found_with_its_interface() -> None:
    assert interface_of("127.0.0.1") == "lo"


def test_an_address_of_another_machine_has_no_interface_here() -> None:
    assert interface_of("192.0.2.77") is None
    assert interface_of("2001:db8::77") is None
