"""What is the XML file of an OpenVINO model."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelium.analysis.readers.folder import Folder
from modelium.analysis.readers.openvino_ir import HEAD_BYTES, is_network

BOMB = '<!DOCTYPE net [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><net name="&b;"/>'


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('<net name="n" version="11"></net>', True),
        ('<?xml version="1.0"?>\n<!-- a -->\n<net name="n"><layers>', True),
        ('<a><net name="n"/></a>', False),
        ('<!-- <net name="n"> --><a/>', False),
        ("<network/>", False),
        ("", False),
        ("net", False),
        ('<?xml version="1.0" encoding="none-such"?><net/>', False),
        (BOMB, False),
        (" " * HEAD_BYTES + "<net/>", False),
    ],
)
def test_a_network_is_known_by_its_root(tmp_path: Path, text: str, found: bool) -> None:
    (tmp_path / "m.xml").write_text(text)
    assert is_network(Folder(tmp_path), "m.xml") is found
