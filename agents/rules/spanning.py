"""One model over several nodes: what one part of it is, for estimates (no I/O here)."""

from __future__ import annotations

from math import ceil

from modelium.models import KVLayout, ModelProfile

MOST_NODES = 16
"""More than any model needs whose parts are whole nodes."""


def stage(profile: ModelProfile, parts: int) -> ModelProfile:
    """Return the profile of the largest of ``parts`` pipeline stages.

    A stage has its share of the layers, rounded up, and may have the embedding or the head, which
    are taken to be the vocabulary's table each.
    """
    layers = profile.layers or parts
    own = ceil(layers / parts)
    table = 2 * (profile.vocabulary_size or 0) * (profile.hidden_size or 0)

    def share(size: int) -> int:
        return ceil(size * own / layers)

    kv = profile.kv
    return profile.model_copy(
        update={
            "layers": own,
            "weight_bytes": min(profile.weight_bytes, share(profile.weight_bytes) + table),
            "weight_bytes_by_dtype": {
                name: share(size) for name, size in profile.weight_bytes_by_dtype.items()
            },
            "kv": None if kv is None else _part(kv, own, layers),
            "kv_bytes_per_token": None
            if profile.kv_bytes_per_token is None
            else share(profile.kv_bytes_per_token),
        }
    )


def _part(kv: KVLayout, own: int, layers: int) -> KVLayout:
    """Return the cache of ``own`` of ``layers``: of each kind at least its share, rounded up."""
    names = ("full_layers", "sliding_layers", "state_layers", "state_elements", "state_bytes")
    return kv.model_copy(update={name: ceil(getattr(kv, name) * own / layers) for name in names})
