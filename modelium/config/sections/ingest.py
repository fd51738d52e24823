"""The ``ingest`` section."""

from __future__ import annotations

from modelium.config.fields import Interval, Seconds, Secret, Section, setting


class Ingest(Section):
    """When a drop counts as complete, and how the webhook authenticates callers."""

    quiet_period_seconds: Seconds = setting(
        5.0,
        "A drop is complete when none of its files has changed for this long.",
        why="5 s is longer than the usual pauses of a copy over the network.",
    )
    rescan_interval_seconds: Interval = setting(
        30.0,
        "How often the whole drop zone is scanned.",
        why="Some file systems (NFS) send no change events; for them 30 s is soon enough.",
    )
    webhook_secret: Secret | None = setting(
        None,
        "If set, POST /hooks/ingest requires an HMAC-SHA256 of the body in X-Modelium-Signature.",
        why="Null: the gateway's own authentication applies, which needs none on loopback.",
    )
