"""The staging folder: where a drop becomes whole, and this user's own, before it is looked at.

Each drop has a folder of its own there, which holds the note of its `Origin`, what is staged under
the model's name, in ``.original`` the drop as it came for as long as it is needed, and what is
being copied under a name of `modelium.intake.moving`. A name of a drop's own is whole.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from modelium import analysis
from modelium.errors import DropRejected, InputError
from modelium.intake.contents import ORIGINAL, only_in, original_in, parts_in
from modelium.intake.drop_zone import DropZone
from modelium.intake.likeness import Likeness, likeness
from modelium.intake.moving import (
    COPYING,
    clear,
    copy_in,
    is_deletable,
    is_own,
    move,
    sync_tree,
    take_away,
)
from modelium.intake.names import ARCHIVES, check_name, model_name, with_ending
from modelium.intake.origin import Origin
from modelium.intake.rejects import KeptApart, Rejects, drop_empty
from modelium.intake.space import need_space, size_of
from modelium.intake.zone import below, holding

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Staged:
    """A drop in the staging folder."""

    name: str
    folder: Path
    """The model's files. Its parent is a staging folder that no other drop uses."""
    moved: bool
    """False: this is a copy, and the original was left in place."""


class Staging:
    """Takes drops in, and gives them back. Every call blocks."""

    def __init__(
        self, *, folder: Path, zone: DropZone, rejects: Rejects, trash: Path, downloads: Path
    ) -> None:
        """Create ``folder`` where it is missing.

        Args:
            folder: of staged drops, on the file system of the repository.
            zone: the drop zone.
            rejects: the rejected drops.
            trash: the folder of the trash.
            downloads: the folder of what was copied from object storage.
        """
        self.folder = folder
        self._zone = zone
        self._incoming = zone.folder
        self._rejects = rejects
        self._trash = trash
        self._downloads = downloads
        folder.mkdir(exist_ok=True)

    def stage(self, path: Path, *, name: str | None, team: str | None = None) -> Staged:
        """Move ``path`` from the drop zone into staging, or copy it from anywhere else.

        Refused drops and the trash are Modelium's own: what lies in them is moved, too. An archive
        is unpacked. What others may write to is copied. ``name``: the model's name; default:
        `model_name` of ``path``. ``team``: to whose folder it returns when it is given back.

        Raises:
            InputError: ``path`` does not exist.
            DropRejected: the name is not a valid model name, the drop is a link, or it cannot be
                unpacked or copied; it is in its place. `KeptApart`: a newer one is there.
            OSError: the disk is full, for example; it is in its place.
        """
        if not path.exists():
            raise InputError(f"{path} does not exist; check the path and try again")
        if path.name == "..":
            raise InputError(f"{path} ends with '..', which is no drop; use the folder's own path")
        moved = self.owns(path)
        if moved:
            analysis.refuse_link(path)  # its digest would read whatever it leads to
        wanted = name or model_name(path)
        check_name(wanted)
        archive = path.is_file() and path.name.endswith(ARCHIVES)
        if not moved and not below(path, self._incoming):
            path = path.resolve()  # an operator's link is followed, and a dropper's is not
        zone = self._incoming if below(path, self._incoming) else self._incoming.resolve()
        with holding(path, zone) as parent, self._entered(path, moved=moved) as at:
            origin = Origin(
                path=str(path), name=wanted, moved=moved, archive=archive, team=team or ""
            )
            return self._stage(path, at, origin, parent=parent)

    @contextmanager
    def _entered(self, path: Path, *, moved: bool) -> Iterator[Path]:
        """Yield ``path`` as it can be moved, whoever swaps the folder that it lies in."""
        if not moved or not self._zone.holds(path):
            yield path
            return
        with self._zone.entered(path.parent) as folder:
            yield folder / path.name

    def _stage(self, path: Path, at: Path, origin: Origin, *, parent: int | None) -> Staged:
        """Take ``path``, which lies in the open folder ``parent``, in as ``origin`` says.

        ``at``: see `_entered`.
        """
        wanted, moved = origin.name, origin.moved
        like = likeness(at) if moved else frozenset()
        own = self.folder / uuid.uuid4().hex
        (own / ORIGINAL).mkdir(parents=True)
        try:
            origin.write(own)
            if origin.archive:
                moved = self._unpack(path, at, own, origin, parent)
            elif moved:
                moved = self._move(at, own, origin)
            else:
                copy_in(path, own / wanted, parent=parent)
        except (OSError, DropRejected) as exc:
            self._undo(at, own, exc, name=path.name, like=like)
            raise
        # A copy of a published model brings what Triton needed; a hostile drop may imitate that.
        analysis.unlay(own / wanted)
        if path.parent.parent == self._rejects.folder:
            drop_empty(path.parent)
        return Staged(name=wanted, folder=own / wanted, moved=moved)

    def _undo(
        self, at: Path, own: Path, exc: OSError | DropRejected, *, name: str, like: Likeness
    ) -> None:
        """Return a drop that was ``like`` this to where it was, if no newer one is there by now.

        Raises:
            KeptApart: one is, and the drop was refused.
        """
        held = original_in(own)
        if held is not None and not os.path.lexists(at):
            move(held, at)
        elif held is not None and likeness(at) != like:
            self._keep_apart(held, name, exc, team=Origin.read(own).team)
            self._discard(own)
            if isinstance(exc, DropRejected):
                said = f"{exc}; a newer {name} has arrived meanwhile"
                raise KeptApart(said, reason=exc.reason, approvable=exc.approvable) from exc
        self._discard(own)

    def owns(self, path: Path) -> bool:
        """Whether ``path`` is Modelium's to move: a drop, a refused, removed or downloaded one."""
        return self._zone.holds(path) or path.parent.parent in (
            self._rejects.folder,
            self._trash,
            self._downloads,
        )

    def _unpack(self, path: Path, at: Path, own: Path, origin: Origin, parent: int | None) -> bool:
        """Unpack the archive ``path``, then move it to what is staged; return whether it is."""
        fresh = own / f"{COPYING}{uuid.uuid4().hex[:8]}"
        like = likeness(at)
        need_space(own, at.stat().st_size)
        analysis.unpack(path, fresh, parent=parent)
        whole = _inner(fresh)
        sync_tree(whole)
        os.rename(whole, own / origin.name)
        if not origin.moved:
            return False
        return move(at, own / ORIGINAL / path.name, note=origin.noting(own), like=like)

    def _move(self, path: Path, own: Path, origin: Origin) -> bool:
        """Move the folder or file ``path`` to what is staged; return whether it is."""
        held, target = own / ORIGINAL / path.name, own / origin.name
        if not is_own(path) and not is_deletable(path):
            origin.noting(own)(False)
            need_space(own, size_of(path))
            copy_in(path, target)
            logger.warning(
                "%s was copied: it holds folders of another user, and may not be deleted; delete "
                "it there",
                origin.path,
            )
            return False
        moved = move(path, held, note=origin.noting(own))
        analysis.refuse_link(held)  # it may have become one before it was moved
        if is_own(held, linked=True):  # else its owner could have it delete files of others
            analysis.unlay(held)  # its links are no reason to copy
        if not is_own(held):
            need_space(own, size_of(held))
            copy_in(held, target)
            take_away(held)
        elif held.is_dir():
            os.rename(held, target)
        else:
            target.mkdir()
            os.rename(held, target / path.name)
        return moved

    def give_back(self, staged: Staged) -> None:
        """Return a staged drop that could not be published to the drop zone; delete a copy."""
        own = self._own(staged)
        if own.exists():
            self._return(own)

    def discard(self, staged: Staged) -> None:
        """Delete a drop's staging folder with what is left in it."""
        self._discard(self._own(staged))

    def reject(self, staged: Staged, target: Path) -> None:
        """Move a staged drop into the folder ``target``; of an archive, the archive itself."""
        own = self._own(staged)
        kept = original_in(own) or staged.folder
        replace(Origin.read(own), rejected=str(target / kept.name)).write(own)
        move(kept, target / kept.name)
        self._discard(own)

    def recover(self) -> list[Path]:
        """Move drops that an earlier run left in staging back to the drop zone; return their paths.

        Copies are deleted: their originals are in place. So are parts of drops, unless their
        original is gone: then they are kept with the rejected drops.
        """
        back = []
        clear(self.folder)
        for own in list(self.folder.iterdir()):
            try:
                back += self._return(own)
            except (OSError, DropRejected) as exc:
                logger.warning("a drop of an earlier run stays in %s for now: %s", own, exc)
        return back

    def _return(self, own: Path) -> list[Path]:
        """Move what a staging folder holds back to the drop zone, and delete the folder."""
        origin = Origin.read(own)
        whole = own / origin.name if origin.name else only_in(own)
        held = original_in(own)
        source_stays = os.path.lexists(origin.path)
        if os.path.lexists(origin.rejected):
            keep = None  # it arrived there
        elif held is not None:
            keep = None if origin.is_copy_of(Path(origin.path)) else held
        elif (not origin.moved or origin.archive) and source_stays:
            keep = None  # what is here was made from it
        else:
            keep = whole if os.path.lexists(whole) else None
            if keep is None and parts_in(own):
                self._keep_parts(own, origin)
                return []
        back = []
        if keep is not None:
            name = with_ending(origin.name, keep) if origin.name else keep.name
            place = self._zone.place(Path(origin.path), team=origin.team)
            if origin.team and place == self._zone.folder:
                self._keep_apart(keep, name, _teamless(origin.team), team=origin.team)
                self._discard(own)
                return []
            self._zone.make()
            with self._zone.entered(place) as folder:
                target = folder / name
                if not os.path.lexists(target):
                    move(keep, target)
                    back.append(place / name)
                elif not _same(keep, target):
                    self._keep_apart(keep, name, None, team=origin.team)
        self._discard(own)
        return back

    def _keep_parts(self, own: Path, origin: Origin) -> None:
        """Move the parts of a drop whose original is gone to the rejected drops."""
        error = DropRejected(
            f"only a part of {origin.path} was here when Modelium was interrupted, and the drop "
            "itself is gone; drop it again",
            reason="fragment",
        )
        asked = {"team": origin.team or None}
        target = self._rejects.make(origin.name or own.name, error, asked=asked)
        for number, part in enumerate(parts_in(own), start=1):
            move(part, target / f"part-{number}")
        self._discard(own)

    def _keep_apart(self, drop: Path, name: str, failure: Exception | None, *, team: str) -> None:
        """Move a drop whose place in the drop zone a newer one has taken to the rejected drops."""
        error = DropRejected(
            f"another drop called {name} arrived while this one was taken in, which was "
            "interrupted; move this one into the drop zone to take it in as well",
            reason="interrupted",
        )
        if isinstance(failure, DropRejected):
            error = failure
        target = self._rejects.make(name, error, asked={"team": team or None})
        move(drop, target / name)

    def _discard(self, own: Path) -> None:
        with suppress(OSError):
            take_away(own)

    def _own(self, staged: Staged) -> Path:
        return self.folder / staged.folder.relative_to(self.folder).parts[0]


def _teamless(team: str) -> DropRejected:
    return DropRejected(
        f"taking it in was interrupted, and its team {team} is declared no more; declare the team, "
        "or move this drop into the drop zone to take it in as an operator's",
        reason="interrupted",
    )


def _same(one: Path, other: Path) -> bool:
    """Whether both have the same content: a move that was cut short has left both."""
    try:
        return analysis.digest(one) == analysis.digest(other)
    except (DropRejected, OSError):
        return False


def _inner(folder: Path) -> Path:
    """Return the only top-level folder of an unpacked archive, where it has just that."""
    entries = list(folder.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder
