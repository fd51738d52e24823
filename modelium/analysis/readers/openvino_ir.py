"""Intermediate representation of OpenVINO: an XML file beside a blob of weights."""

from __future__ import annotations

import contextlib
from xml.parsers import expat

from modelium.analysis.readers.folder import Folder

HEAD_BYTES = 64 * 1024
"""The root element is in the first line; graphs have many megabytes."""
_ROOT = "net"


class _RootFound(Exception):
    """Ends the parser at the first element."""


def is_network(folder: Folder, name: str) -> bool:
    """Return whether the file ``name`` is XML with OpenVINO's root element, without a DTD.

    No more than the first `HEAD_BYTES` are read, and nothing after the root's start.
    """
    roots: list[str] = []

    def element(tag: str, _: object) -> None:
        roots.append(tag)
        raise _RootFound

    def doctype(*_: object) -> None:  # it may define entities
        raise _RootFound

    parser = expat.ParserCreate()
    parser.StartElementHandler = element
    parser.StartDoctypeDeclHandler = doctype
    with contextlib.suppress(_RootFound, expat.ExpatError, LookupError, ValueError):
        parser.Parse(folder.read(name, limit=HEAD_BYTES), False)
    return roots == [_ROOT]
