"""Where paths really lead, though engines may have laid links in the folders that they may change.

An engine cannot replace a folder that it may change, only what is in it. So a path leads where the
operator meant it to unless it passes through such a folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MOST_LINKS = 40
"""As many as the kernel follows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """How a path is resolved."""

    place: str
    """Where it leads; no component of it is a link."""
    through: frozenset[str]
    """The folders in which a component was looked up."""
    links: int

    def passes(self, folder: str) -> bool:
        """Whether something in ``folder`` decides where the path leads."""
        return any(within(place, folder) for place in self.through)


def within(path: str, folder: str) -> bool:
    """Whether ``path`` is ``folder`` or lies below it, by their names alone."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def way(path: str, *, follow: bool = True) -> Way:
    """Resolve ``path``, whose end need not exist; ``follow``: a link at its end as well."""
    place, links, through = "/", 0, set()
    names = path.split("/")[::-1]
    while names:
        name = names.pop()
        if name in ("", "."):
            continue
        if name == "..":
            place = os.path.dirname(place)
            continue
        through.add(place)
        here = os.path.join(place, name)
        try:
            target = os.readlink(here) if names or follow else ""
        except OSError:  # no link
            target = ""
        if not target:
            place = here
            continue
        links += 1
        if links > MOST_LINKS:
            return Way(place=here, through=frozenset(through), links=links)
        if target.startswith("/"):
            place = "/"
        names.extend(target.split("/")[::-1])
    return Way(place=place, through=frozenset(through), links=links)


def writable_places(own: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Return where those paths lead that an engine which may change all of them cannot redirect.

    What lies in another of them is left out, since the rule for that one covers it. Where only
    links tell, those that depend on another are: which was first cannot be known any more.

    Args:
        own: folders that are no links themselves; one in their place is not followed.
        others: folders that the operator may have replaced by a link.
    """
    ends = {os.path.abspath(path): False for path in own}
    ends = dict.fromkeys(map(os.path.abspath, others), True) | ends
    outer = [p for p in ends if not any(p != o and within(p, o) for o in ends)]
    ways = {path: way(path, follow=ends[path]) for path in outer}
    return {
        path: one.place
        for path, one in ways.items()
        if not one.links
        or not any(one.passes(other.place) for name, other in ways.items() if name != path)
    }


def readable_places(paths: Iterable[str], writable: Mapping[str, str]) -> list[str]:
    """Return where ``paths`` lead, without those that lie in ``writable`` places anyway."""
    found = []
    for path in dict.fromkeys(map(os.path.abspath, paths)):
        one = way(path)
        if not any(within(path, name) or one.passes(at) for name, at in writable.items()):
            found.append(one.place)
    return found
