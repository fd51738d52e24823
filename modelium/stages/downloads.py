"""Models from object storage: copied here first, then taken in as a drop is."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from functools import partial
from pathlib import Path

from modelium.errors import InputError
from modelium.intake.names import is_name, refused_name
from modelium.intake.object_storage import Download, check_url
from modelium.intake.removal import remove_quietly
from modelium.models import GIB, Drop, DropState
from modelium.stages.services import Services
from modelium.tasks import on_thread

logger = logging.getLogger(__name__)


def check_source(services: Services, url: str, *, bound: str | None) -> None:
    """Make sure that ``url`` may be ingested; ``bound``: the team of the key that asks.

    Raises:
        InputError: it may not.
    """
    if bound is not None:
        raise InputError(
            "keys of a team ingest from its own folder; ask an operator to ingest a URL"
        )
    check_url(url, services.config.ingest.sources)


async def download(services: Services, url: str, name: str | None) -> Path:
    """Copy what is below ``url`` to this machine; return where it is, to be taken in.

    What an earlier try has copied is not copied again. While it lasts, it is shown as an arriving
    drop.

    Raises:
        InputError: nothing is there, or it can be no model.
        Unavailable: the service does not answer.
        OSError: it does not fit on the disk.
    """
    last = url.rstrip("/").rpartition("/")[2]
    wanted = name or last
    if not is_name(wanted):
        raise InputError(f"{refused_name(wanted)}; nothing was copied")
    settings = services.config.ingest
    key = hashlib.sha256(url.encode()).hexdigest()[:16]
    work = Download(
        url=url,
        folder=services.repository.downloads / key,
        endpoint=settings.s3_endpoint,
        allowed=services.config.orchestration.allowed_link_local,
        reserve_bytes=int((settings.min_free_gib or 0.0) * GIB),
    )
    loop = asyncio.get_running_loop()
    arriving = Drop(
        name=last,
        model=wanted,
        state=DropState.ARRIVING,
        path=url,
        since=services.clock.time(),
    )
    shown: list[str] = []

    def note(line: str) -> None:
        logger.info("%s: %s", url, line)
        services.pending.note(arriving.model_copy(update={"reason": line}))

    def progress(arrived: int, total: int) -> None:
        line = f"copying: {arrived / max(1, total):.0%} of {total / GIB:.2f} GiB"
        if line not in shown[-1:]:
            shown.append(line)
            loop.call_soon_threadsafe(note, line)

    try:
        return await on_thread(partial(work.run, progress))
    finally:
        work.stop()
        # After what the threads have sent.
        loop.call_soon(services.pending.forget, url)


async def forget(services: Services, source: Path) -> None:
    """Delete what is left of a download that was taken in, or refused."""
    if source.parent.parent == services.repository.downloads:
        await asyncio.to_thread(remove_quietly, source.parent)
