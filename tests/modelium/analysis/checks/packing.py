"""Packs archives member by member, also such as no tool would pack."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from modelium.analysis import unpack
from modelium.errors import DropRejected


def refused(archive: Path, into: Path) -> DropRejected:
    with pytest.raises(DropRejected) as caught:
        unpack(archive, into)
    return caught.value


def reason_of(archive: Path, into: Path) -> str:
    return refused(archive, into).reason


def named(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    return member


def tar_of(path: Path, *members: tarfile.TarInfo, data: bytes = b"x") -> Path:
    with tarfile.open(path, "w") as archive:
        for member in members:
            member.size = len(data) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return path
