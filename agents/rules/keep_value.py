"""What keeping a model is worth: load-seconds that a later request would have to wait for."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from modelium.models import Model, Traffic
from modelium.models.load_time import load_seconds
from modelium.traffic.book import HORIZONS_S, INTERVAL_BOUNDS_S

# Fitted by CMA-ES on replays of ServeGen clients and judged on others, on other days, and on a
# slower and a faster clock (docs/planner.md). The day weighs against a model: a silence that is
# as long as others' means more where a busy day came before it.
PRIOR_WEIGHTS = (0.28, 1.27, 0.48, -0.15)
LOG_PRIOR_SCALE = math.log(0.1)
PRIOR_COUNT = 2.4
PRIOR_REQUESTS = 0.04
LOAD_EXPONENT = 0.9
SIZE_EXPONENT = 1.22

STALE_S = 3600.0
"""A silence of this long halves the prior. With room for nearly all, who was silent longest is the
best guess, as least-recently-used has it: this keeps it no worse there."""

YOUNG_S = 30.0
"""A model is taken as known for at least this long, so that its first request is no burst."""

SILENCES_NEEDED = 5
"""Fewer past silences than this say nothing about the next request."""

_BOUNDS = (0.0, *map(float, INTERVAL_BOUNDS_S), 86400.0)
"""The histogram's bounds, closed by a day."""

_WIDTHS = tuple(high - low for low, high in pairwise(_BOUNDS))

CLASS_WEIGHT = {"high": 8.0, "medium": 2.0, "low": 1.0}
"""How much a second of waiting counts by priority class: one class up outweighs ordinary traffic
differences, but an idle important model still yields to a much busier lesser one."""


def hazard(traffic: Traffic, *, now: float) -> float:
    """Return how soon the next request is to be expected: a rate per second, for ranking models.

    Two steps (`docs/planner.md` derives both):

    1. A prior from the decayed counts over several horizons, log-linear:
       ``h0 = C / (1 + silence / S) · Π ((n_k + A) / span_k) ^ w_k``, ``n_k`` being the
       decayed count of requests and ``span_k`` the part of horizon k that the model has been
       known for.
    2. The model's own gaps between requests: the Gittins index of keeping it,
       ``max over T of (K + requests expected within T) / (K/h0 + seconds waited for them)``
       (Gittins 1979), with the histogram's survivors of the present silence as evidence and
       the prior worth ``K`` requests. A steady timer is kept while it is about to fire; a
       burst that is over is not.

    Never requested models get 0.
    """
    last, first = traffic.last_request_at, traffic.first_request_at
    if last is None or first is None:
        return 0.0
    age = max(0.0, now - last)
    known = max(0.0, now - first) + YOUNG_S
    log_prior = LOG_PRIOR_SCALE - math.log1p(age / STALE_S)
    for rate, horizon, weight in zip(traffic.rates, HORIZONS_S, PRIOR_WEIGHTS, strict=False):
        span = horizon * (1.0 - math.exp(-known / horizon))
        log_prior += weight * math.log((rate * horizon + PRIOR_COUNT) / span)
    return _gittins(traffic.intervals, age, math.exp(log_prior))


def _gittins(intervals: Sequence[int], age: float, prior: float) -> float:
    if len(intervals) != len(_WIDTHS):
        return prior
    bucket = min(bisect_left(INTERVAL_BOUNDS_S, age), len(_WIDTHS) - 1)
    left = max(0.0, _BOUNDS[bucket + 1] - age)
    later = intervals[bucket + 1 :]
    # Gaps are taken as spread evenly within their bucket.
    ending = intervals[bucket] * left / _WIDTHS[bucket]
    alive = sum(later)
    requests = PRIOR_REQUESTS + ending
    waited = PRIOR_REQUESTS / prior + (ending / 2 + alive) * left
    best = max(prior, requests / waited)
    for count, width in zip(later, _WIDTHS[bucket + 1 :], strict=True):
        if not alive:
            break
        alive -= count
        requests += count
        waited += (alive + count / 2) * width
        if requests > best * waited:
            best = requests / waited
    return best


def arrival_chance(traffic: Traffic, *, now: float, within_s: float) -> float:
    """Return the share of past silences as long as the present one that ended ``within_s``.

    0 where fewer than `SILENCES_NEEDED` are known, and while a request is there.
    """
    last, counts = traffic.last_request_at, traffic.intervals
    if last is None or traffic.in_flight or len(counts) != len(_WIDTHS):
        return 0.0
    age = max(0.0, now - last)
    alive = sum(_beyond(age, i, c) for i, c in enumerate(counts))
    if alive < SILENCES_NEEDED:
        return 0.0
    return 1.0 - sum(_beyond(age + within_s, i, c) for i, c in enumerate(counts)) / alive


def _beyond(age: float, bucket: int, gaps: int) -> float:
    low, high = _BOUNDS[bucket], _BOUNDS[bucket + 1]
    return gaps * min(1.0, max(0.0, high - age) / (high - low))


def keep_value(model: Model, *, now: float) -> float:
    """Return what keeping ``model`` in memory is worth, for comparing models of one size.

    Expected load-seconds saved per second, damped: ``hazard · load_s ^ D``. D below 1 weighs
    the count of cold starts along with their seconds.
    """
    return (
        CLASS_WEIGHT[model.priority]
        * hazard(model.traffic, now=now)
        * math.pow(max(1.0, load_seconds(model)), LOAD_EXPONENT)
    )


def loss_per_byte(value: float, size: int) -> float:
    """Return the loss of evicting a model of ``value`` that gives back ``size`` bytes.

    Slightly more than proportional to the size: one large victim spares several small ones,
    each of which would have a cold start of its own.
    """
    return value / math.pow(max(1, size), SIZE_EXPONENT)
