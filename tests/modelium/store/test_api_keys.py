"""API keys as the store has them: hashes, never secrets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelium.errors import InputError
from modelium.models import Priority
from modelium.models.api_keys import PREFIX, KeyTerms, digest
from modelium.store import Store

TERMS = KeyTerms(
    name="chat app",
    team="prod",
    priority=Priority.HIGH,
    models=frozenset({"m"}),
    requests_per_minute=90.0,
    max_concurrent=4,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path}/modelium.db", now=lambda: 5.0)
    yield opened
    opened.close()


def test_the_secret_is_returned_once_and_only_its_hash_is_stored(
    store: Store, tmp_path: Path
) -> None:
    issued = store.keys.issue(TERMS, id="k1")
    assert issued.secret.startswith(PREFIX)
    assert store.keys.by_hash() == {digest(issued.secret.encode()): issued.key}
    assert issued.key.created_at == 5.0
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"chat app" in files
    assert issued.secret.encode() not in files


def test_two_keys_differ(store: Store) -> None:
    assert store.keys.issue(TERMS, id="k1").secret != store.keys.issue(TERMS, id="k2").secret


def test_a_revoked_key_stays_listed_as_revoked(store: Store) -> None:
    store.keys.issue(TERMS, id="k1")
    assert store.keys.revoke("k1").revoked_at == 5.0
    assert store.keys.revoke("k1").revoked_at == 5.0
    assert [key.revoked_at for key in store.keys.by_hash().values()] == [5.0]
    with pytest.raises(InputError, match="no key has the id"):
        store.keys.revoke("k9")
