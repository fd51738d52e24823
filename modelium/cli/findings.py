"""The result of a check of `modelium doctor`."""

from __future__ import annotations

from modelium.models import Frozen


class Finding(Frozen):
    """The result of one check."""

    what: str
    ok: bool
    detail: str
