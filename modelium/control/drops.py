"""Drops that the watcher reports: ingested, and reported again where that failed for now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any

from modelium.errors import InputError, Unavailable
from modelium.models import Report


@dataclass(frozen=True, kw_only=True, slots=True)
class DropRun:
    """The ingest of a drop. It begins when it is awaited."""

    run: Awaitable[Report]
    again: Callable[[], None]
    """Called where it fails for a reason that is not the drop's own, such as a full disk."""

    def __await__(self) -> Generator[Any, None, Report]:
        """Run it to its end; raises what it raises."""
        return self._insist().__await__()

    def __str__(self) -> str:
        return str(self.run)

    async def _insist(self) -> Report:
        try:
            return await self.run
        except InputError:
            raise
        except OSError as exc:
            self.again()
            raise Unavailable(f"{exc}; the drop is kept, and tried again in a while") from exc
        except Exception:
            self.again()
            raise
