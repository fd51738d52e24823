"""The gauges of teams (no I/O here)."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from modelium.models import Fleet


def team_families(fleet: Fleet) -> Iterator[Metric]:
    """Yield the gauges of the teams that own models in ``fleet``, or have used devices."""
    models = GaugeMetricFamily(
        "modelium_team_models", "Models of a team in each state.", labels=["team", "state"]
    )
    qps = GaugeMetricFamily(
        "modelium_team_qps", "Requests per second in the last minute.", labels=["team"]
    )
    booked = GaugeMetricFamily(
        "modelium_team_memory_booked_bytes",
        "Bytes booked for the models of a team on all devices.",
        labels=["team"],
    )
    used = GaugeMetricFamily(
        "modelium_team_gpu_seconds",
        "GPU-seconds that the models of a declared team used in the last 24 hours.",
        labels=["team"],
    )
    owned = {model.team for model in fleet.models if model.team is not None}
    for team in sorted(owned | {team for team in fleet.used if team}):
        own = [model for model in fleet.models if model.team == team]
        for state, count in sorted(Tally(model.state for model in own).items()):
            models.add_metric([team, state], count)
        qps.add_metric([team], sum(model.traffic.qps for model in own))
        names = {model.name for model in own}
        held = (booking.bytes for booking in fleet.bookings if booking.model in names)
        booked.add_metric([team], sum(held))
        if team in fleet.used:
            used.add_metric([team], fleet.used[team])
    yield from (models, qps, booked, used)
