"""A store has one service."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from modelium.errors import InputError
from modelium.store import Store


def opened(folder: Path) -> Store:
    return Store.open(f"sqlite:///{folder}/modelium.db", now=lambda: 1.0)


def test_a_second_service_on_a_store_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    said = re.escape(f"store.url: another Modelium service uses sqlite:///{tmp_path}/modelium.db")
    with first.exclusive(), pytest.raises(InputError, match=said), second.exclusive():
        raise AssertionError("never held twice")
    with second.exclusive():
        assert first.names() == set()  # reading is free
    first.close()
    second.close()
