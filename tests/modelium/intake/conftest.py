"""What tests of several modules of the intake need."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of a user whom permissions bind, who does not own what others put elsewhere."""
    root = Path(tempfile.mkdtemp())
    rooted = os.geteuid() == 0
    if rooted:
        os.chown(root, 65534, 65534)
        os.seteuid(65534)
    try:
        yield root
    finally:
        if rooted:
            os.seteuid(0)
        for folder, _folders, _files in os.walk(root):
            os.chmod(folder, 0o700)
        shutil.rmtree(root)
