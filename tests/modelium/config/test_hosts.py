"""Loopback, brackets and free ports."""

from __future__ import annotations

import pytest

from modelium.config.hosts import authority, bind, bracketed, free_port, is_loopback, is_metadata


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.3.2.1", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.evil.com", False),
        ("127.0.0.1.evil.com", False),
        ("example.org", False),
        ("", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_ipv6_addresses_are_bracketed() -> None:
    assert bracketed("::1") == "[::1]"
    assert bracketed("127.0.0.1") == "127.0.0.1"
    assert authority("::1", 80) == "[::1]:80"
    assert authority("gpu-1", 8000) == "gpu-1:8000"


def test_taken_port_cannot_be_bound() -> None:
    port = free_port("127.0.0.1")
    with bind("127.0.0.1", port) as held:
        held.listen()
        with pytest.raises(OSError, match="in use"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize(
    "host",
    [
        *("169.254.169.254", "169.254.0.1", "2852039166", "0xa9.0xfe.43518", "169.254.43518"),
        *("fe80::1", "[fe80::1]", "fd00:ec2::254", "::ffff:169.254.169.254", "100.100.100.200"),
        *("metadata.google.internal", "Metadata.Google.Internal."),
    ],
)
def test_metadata_services_are_known_in_every_spelling(host: str) -> None:
    assert is_metadata(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "::1", "fd00::1", "llm.example", ""])
def test_other_hosts_are_no_metadata_services(host: str) -> None:
    assert not is_metadata(host)
