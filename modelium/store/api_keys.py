"""API keys in the store: hashes and terms, never a secret."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from modelium.errors import InputError
from modelium.models import api_keys
from modelium.models.api_keys import ApiKey, IssuedKey, KeyTerms
from modelium.store import schema
from modelium.store.connection import reading
from modelium.store.documents import parsed


class KeyTable:
    """Issues, lists and revokes API keys. Every method is one short transaction and blocks."""

    def __init__(self, *, engine: Engine, now: Callable[[], float]) -> None:
        """``now``: seconds since the epoch."""
        self._engine = engine
        self._now = now

    def issue(self, terms: KeyTerms, *, id: str) -> IssuedKey:
        """Store a new key; only the return value holds its secret."""
        secret = api_keys.new_secret()
        key = ApiKey(**terms.model_dump(), id=id, created_at=self._now())
        with self._engine.begin() as tx:
            tx.execute(
                sa.insert(schema.api_keys).values(
                    id=id,
                    hash=api_keys.digest(secret.encode()),
                    document=key.model_dump(mode="json"),
                )
            )
        return IssuedKey(key=key, secret=secret)

    def by_hash(self) -> Mapping[str, ApiKey]:
        """Return all keys, revoked ones too, by the hash of their secret."""
        with reading(self._engine) as tx:
            rows = tx.execute(sa.select(schema.api_keys.c.hash, schema.api_keys.c.document))
            return {row.hash: parsed(ApiKey, row.document) for row in rows}

    def revoke(self, id: str) -> ApiKey:
        """Revoke a key; revoking it again changes nothing.

        Raises:
            InputError: no key has that id.
        """
        table = schema.api_keys
        with self._engine.begin() as tx:
            document = tx.scalar(sa.select(table.c.document).where(table.c.id == id))
            if document is None:
                raise InputError(f"no key has the id {id!r}; `modelium keys ls` lists the keys")
            key = parsed(ApiKey, document)
            if key.revoked_at is None:
                key = key.model_copy(update={"revoked_at": self._now()})
                tx.execute(
                    sa.update(table)
                    .where(table.c.id == id)
                    .values(document=key.model_dump(mode="json"))
                )
        return key
