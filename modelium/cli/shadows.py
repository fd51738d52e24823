"""Other distributions that have packages of the same names as ours: `agents` is a common one.

The wheel is an application's. In an environment with other packages, the one that was installed
last overwrites files of the other, or the first on ``sys.path`` hides it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterator, Mapping
from importlib import metadata
from pathlib import Path

PACKAGES = ("agents", "flows", "runtimes")
"""Our top-level packages besides `modelium`."""

DISTRIBUTION = "modelium"

ADVICE = (
    "install Modelium into an environment of its own (`pipx install` or `uv tool install`, "
    "or a fresh virtual environment)"
)


def shadows(
    *,
    home: Path = Path(__file__).parents[2],
    providers: Mapping[str, Collection[str]] | None = None,
) -> Iterator[str]:
    """Yield a sentence for each of `PACKAGES` that another distribution has, too.

    Args:
        home: folder that our packages lie in.
        providers: top-level package → distributions; default: those of this environment.
    """
    if providers is None:
        providers = metadata.packages_distributions()
    for name in PACKAGES:
        others = sorted({d for d in providers.get(name, ()) if d != DISTRIBUTION})
        spec = importlib.util.find_spec(name)
        place = Path(spec.origin).parent.parent if spec and spec.origin else None
        if others:
            yield f"the package {name} is also in the distribution {', '.join(others)}; {ADVICE}"
        elif place != home:
            where = f"is found in {place}" if place else "is not found"
            yield f"the package {name} {where} instead of {home}; {ADVICE}"
