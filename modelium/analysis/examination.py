"""The examination of a dropped path: safety, completeness and profile, from one scan.

The folder is listed once, and each header and shard index is parsed once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modelium.analysis.catalog import EngineCatalog
from modelium.analysis.checks.completeness import find_missing
from modelium.analysis.checks.safety import SafetyReport, inspect_folder, refuse_link
from modelium.analysis.profile import profile_folder
from modelium.analysis.readers.folder import Folder
from modelium.models import ModelProfile


@dataclass(frozen=True, kw_only=True, slots=True)
class Examination:
    """The result of examining a safe drop. Exactly one of ``missing`` and ``profile`` is set."""

    safety: SafetyReport
    missing: str | None = None
    """What the drop still lacks, in one line; ``None``: it is complete."""
    profile: ModelProfile | None = None
    """``None`` for an incomplete drop. Its digest is empty: `digest` reads whole files."""


def examine(
    path: Path,
    *,
    approvals: frozenset[str] = frozenset(),
    engines: EngineCatalog | None = None,
) -> Examination:
    """Check that a drop is safe and complete, and profile it.

    Reads names, sizes, headers and configuration only; nothing of the model runs.

    Args:
        path: a folder, or a single model or configuration file.
        approvals: what an operator allowed: ``remote-code``, ``pickle``.
        engines: installed engines, for `ModelProfile.runtimes`; default: those shipped for.

    Raises:
        DropRejected: the drop is unsafe, or complete but of no known format.
    """
    refuse_link(path)
    folder = Folder(path)
    safety = inspect_folder(folder, approvals=approvals)
    if missing := find_missing(folder):
        return Examination(safety=safety, missing=missing)
    return Examination(safety=safety, profile=_profile(folder, safety, engines))


def analyze(
    path: Path,
    *,
    approvals: frozenset[str] = frozenset(),
    engines: EngineCatalog | None = None,
) -> ModelProfile:
    """Return the profile of a path that may be incomplete or a link; otherwise as `examine`.

    A bare ``config.json`` or a folder that still lacks weights is profiled as far as possible.
    """
    folder = Folder(path)
    return _profile(folder, inspect_folder(folder, approvals=approvals), engines)


def _profile(folder: Folder, safety: SafetyReport, engines: EngineCatalog | None) -> ModelProfile:
    profile = profile_folder(folder, engines or EngineCatalog())
    if safety.pickles:
        profile = profile.model_copy(update={"details": {**profile.details, "pickle": True}})
    return profile
