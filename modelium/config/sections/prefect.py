"""The ``prefect`` section."""

from __future__ import annotations

from modelium.config.fields import Days, HttpUrl, Port, Section, Switch, Text, setting


class Prefect(Section):
    """The Prefect server that records runs."""

    enabled: Switch = setting(
        True,
        "If false, stages run without Prefect and leave no run history.",
        why="True: run history, retries and schedules are shown in the Prefect UI.",
    )
    api_url: HttpUrl | None = setting(
        None,
        "API URL of an existing Prefect server.",
        why="Null: PREFECT_API_URL if that is set, otherwise an embedded server.",
    )
    host: Text = setting(
        "127.0.0.1",
        "Address that the embedded server listens on.",
        why="Loopback: the embedded server wants credentials, but speaks plain HTTP.",
    )
    port: Port = setting(4200, "TCP port of the embedded server.", why="Prefect's default port.")
    retention_days: Days = setting(
        7.0,
        "How long finished runs are kept.",
        why="One week: two sweeps per minute add about 110 MB per day.",
    )
    work_pool: Text = setting(
        "modelium",
        "Work pool of Modelium's deployments.",
        why="The name separates them from deployments of other projects.",
    )
