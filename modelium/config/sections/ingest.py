"""The ``ingest`` section."""

from __future__ import annotations

from modelium.config.fields import Interval, Seconds, Secret, Section, setting


class Ingest(Section):
    """When a drop counts as complete or given up, and how the webhook authenticates callers."""

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
    incomplete_after_seconds: Seconds = setting(
        86400.0,
        "A drop that stays incomplete, without a change of its files, is moved to the rejected "
        "drops after this long.",
        why="A day: an interrupted download is usually resumed by then.",
    )
    webhook_secret: Secret | None = setting(
        None,
        "If set, POST /hooks/ingest requires an HMAC-SHA256 of the body in X-Modelium-Signature.",
        why="Null: the gateway's own authentication applies, which needs none on loopback.",
    )
