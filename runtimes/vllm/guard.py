"""Arguments and variables that close vLLM's server to others (no I/O here)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from runtimes.vllm.installation import Installation

ACCESS = Path(__file__).with_name("access")
MIDDLEWARE = "modelium_access.RequireKey"
NO_DOMAIN = "none.invalid"
"""A name that never exists (RFC 6761)."""
MEDIA = "--allowed-media-domains"


def guard_arguments(media_domains: Iterable[str], installation: Installation) -> list[str]:
    """Return the arguments that ask each request for the key and bound what it may fetch.

    ``media_domains``: where images, sound and video of requests may be fetched from.
    """
    arguments = ["--middleware", MIDDLEWARE]
    if installation.accepts(MEDIA):
        # An empty list allows every address, those of the machine's own services included.
        arguments += [MEDIA, *(sorted(media_domains) or [NO_DOMAIN])]
    return arguments


def guard_environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return ``given`` with what the middleware needs."""
    paths = [str(ACCESS), *filter(None, [given.get("PYTHONPATH")])]
    # A redirect would lead a fetch past the allowed domains.
    return {"VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0", **given, "PYTHONPATH": os.pathsep.join(paths)}
