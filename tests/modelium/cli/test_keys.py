"""Keys are revoked by id, or by a name that only one key has."""

from __future__ import annotations

import pytest

from modelium.cli.keys import _id_of
from modelium.errors import InputError

KNOWN = [{"id": "k1", "name": "ann"}, {"id": "k2", "name": "bob"}, {"id": "k3", "name": "bob"}]


@pytest.mark.parametrize(("key", "found"), [("k2", "k2"), ("ann", "k1")])
def test_a_key_is_found_by_id_or_name(key: str, found: str) -> None:
    assert _id_of(key, KNOWN) == found


@pytest.mark.parametrize(("key", "said"), [("bob", "k2, k3"), ("eve", "keys ls")])
def test_what_names_no_single_key_is_an_error(key: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        _id_of(key, KNOWN)
