"""The value of keeping a model in memory: load-seconds that it is expected to save (pure)."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from modelium.models import Model, Traffic
from modelium.models.load_time import load_seconds
from modelium.traffic.tally import HORIZONS_S, INTERVAL_BOUNDS_S

# Fitted by CMA-ES on replays of ServeGen clients; tested on other clients, other days, and with
# time stretched and compressed (docs/planner.md). The weight of the day is negative: after a busy
# day, the same silence is stronger evidence that the model is no longer used.
PRIOR_WEIGHTS = (0.28, 1.27, 0.48, -0.15)
LOG_PRIOR_SCALE = math.log(0.1)
PRIOR_COUNT = 2.4
PRIOR_REQUESTS = 0.04
LOAD_EXPONENT = 0.9
SIZE_EXPONENT = 1.22

STALE_S = 3600.0
"""A silence of this length halves the prior. Where nearly all models fit, least recently used is
the best order; this keeps the value close to it there."""

YOUNG_S = 30.0
"""Least time that a model counts as known, so that its first request is not taken for a burst."""

SILENCES_NEEDED = 5
"""Fewer past silences than this are no evidence about the next request."""

_BOUNDS = (0.0, *map(float, INTERVAL_BOUNDS_S), 86400.0)
"""Bounds of the histogram's buckets, in seconds; the last bucket ends at a day."""

_WIDTHS = tuple(high - low for low, high in pairwise(_BOUNDS))

CLASS_WEIGHT = {"high": 8.0, "medium": 2.0, "low": 1.0}
"""Weight of a second of waiting per priority class: a better class outweighs ordinary differences
in traffic, but an idle model still yields to a much busier one of a lower class."""


def hazard(traffic: Traffic, *, now: float) -> float:
    """Return the expected rate of the next request, per second, for comparing models.

    Two steps (`docs/planner.md` derives both):

    1. A prior from the decayed counts over several horizons, log-linear:
       ``h0 = C / (1 + silence / S) · Π ((n_k + A) / span_k) ^ w_k``, ``n_k`` being the
       decayed count of requests and ``span_k`` the part of horizon k, in seconds, during
       which the model has been known.
    2. The model's own gaps between requests: the Gittins index of keeping it,
       ``max over T of (K + requests expected within T) / (K/h0 + seconds waited for them)``
       (Gittins 1979), with the histogram's survivors of the present silence as evidence and
       the prior worth ``K`` requests. A model on a timer keeps its value while its next request
       is near; a model whose burst is over loses it.

    Returns 0 for a model that was never requested.
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
    bucket = bisect_left(INTERVAL_BOUNDS_S, age)
    left = max(0.0, _BOUNDS[bucket + 1] - age)
    later = intervals[bucket + 1 :]
    # Gaps are assumed to be spread evenly within their bucket.
    ending = intervals[bucket] * left / _WIDTHS[bucket]
    alive = sum(later)
    requests = PRIOR_REQUESTS + ending
    waited = PRIOR_REQUESTS / prior + (ending / 2 + alive) * left
    best = max(prior, requests / waited)
    for count, width in zip(later, _WIDTHS[bucket + 1 :], strict=True):
        alive -= count
        requests += count
        waited += (alive + count / 2) * width
        best = max(best, requests / waited)
    return best


def arrival_chance(traffic: Traffic, *, now: float, within_s: float) -> float:
    """Return the share of past silences as long as the present one that ended ``within_s``.

    0 where fewer than `SILENCES_NEEDED` are known, and while a request is in flight.
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


MOST_BACKLOG = 4.0
"""Queue times of more than three service times say that a model is overloaded, not by how much."""


def backlog_factor(traffic: Traffic) -> float:
    """Return by how much longer a stall delays requests because its backlog drains slowly.

    A stall of T seconds delays requests by ``rate · T² / (2 (1 - load))`` in all. In an M/M/1 queue
    the time in the queue is ``load / (1 - load)`` service times, so that ``1 + queue / service`` is
    ``1 / (1 - load)``. The service time is the latency at the engine without the queue. 1 where
    nothing is measured, at most `MOST_BACKLOG`.
    """
    queue, latency = traffic.queue_s, traffic.latency_p50_s
    if not queue or not latency:
        return 1.0
    service = latency - queue
    if service <= 0:
        return MOST_BACKLOG
    return min(MOST_BACKLOG, 1.0 + queue / service)


def keep_value(model: Model, *, now: float) -> float:
    """Return the value of keeping ``model`` in memory, for comparing models of one size.

    Expected load-seconds saved per second: ``class weight · hazard · backlog · load_s ^ D``. With D
    below 1 the number of cold starts counts along with their seconds.
    """
    return (
        CLASS_WEIGHT[model.priority]
        * hazard(model.traffic, now=now)
        * backlog_factor(model.traffic)
        * math.pow(max(1.0, load_seconds(model)), LOAD_EXPONENT)
    )


def loss_per_byte(value: float, size: int) -> float:
    """Return the cost per byte of evicting a model of ``value`` that frees ``size`` bytes.

    The exponent on the size is above 1: one large victim spares several small ones, each of
    which would have a cold start of its own.
    """
    return value / math.pow(max(1, size), SIZE_EXPONENT)
