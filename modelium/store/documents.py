"""Rows that a newer Modelium may have written, too."""

from __future__ import annotations

from typing import Any, TypeVar

from modelium.models import Frozen

D = TypeVar("D", bound=Frozen)


def parsed(kind: type[D], document: Any) -> D:
    """Return ``document`` as a ``kind``.

    Fields that this version does not know are left out: while machines are upgraded one after the
    other, newer ones write them already, and have to bear it that older ones drop them.

    Raises:
        pydantic.ValidationError: it is none.
    """
    return kind.model_validate(document, extra="ignore")
