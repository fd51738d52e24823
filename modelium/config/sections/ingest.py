"""The ``ingest`` section."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict

from modelium.config.fields import (
    HttpUrl,
    Interval,
    Seconds,
    Secret,
    Section,
    note,
    setting,
)

SourceUrl = Annotated[
    str,
    Field(pattern=r"^s3://[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9!_.=+~-]+)*/?$"),
    note(allowed="`s3://BUCKET` or `s3://BUCKET/PREFIX`"),
]


class Ingest(Section):
    """When a drop counts as complete or given up, what is kept, and who may announce one."""

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
    verify_at_load: Annotated[bool, Strict()] = setting(
        True,
        "Before a model is loaded, its files are compared with what was checked: by size, times "
        "and inode, and by content where one of these has changed.",
        why="True: a file that was replaced after the check is not loaded. Set false where inodes "
        "are unstable and reading all files at each load takes too long.",
    )
    keep_versions: Annotated[int, Strict(), Field(ge=1), note(unit="versions per model")] = setting(
        2,
        "How many versions of a model are kept, the current one included. Older ones go to the "
        "trash, except those that are loaded or named by an alias.",
        why="2: `modelium rollback` always has a version to return to.",
    )
    trial_requests: Annotated[int, Strict(), Field(ge=1), note(unit="requests")] = setting(
        20,
        "A version that replaces another one is on trial for this many requests; until then the "
        "other one stays loaded, where both fit.",
        why="20: enough for an ordinary error to be no accident.",
    )
    trial_failures: Annotated[int, Strict(), Field(ge=1), note(unit="requests")] = setting(
        3,
        "Requests of the trial that may not fail: with this many 5xx answers or broken "
        "connections, the version before serves again.",
        why="3: one may be the client's fault, three of twenty are not.",
    )
    trial_seconds: Seconds = setting(
        60.0,
        "The trial ends after this time at the latest; it is failed then if every request was.",
        why="A minute: the other version holds memory meanwhile.",
    )
    trash_retention_days: Annotated[float, Strict(), Field(ge=0), note(unit="days")] = setting(
        7.0,
        "How long the files of removed models and versions stay in the trash (`.trash` in the "
        "repository) before they are deleted.",
        why="A week: time enough to notice that something is missing.",
    )
    min_free_gib: Annotated[float, Strict(), Field(gt=0), note(unit="GiB")] | None = setting(
        None,
        "While the repository's file system has less free space than this, the trash is emptied, "
        "oldest first, and then old versions are deleted.",
        why="Null: nothing is deleted before its time.",
    )
    sources: frozenset[SourceUrl] = setting(
        frozenset(),
        "Places in object storage that models may be ingested from, with what is below them: "
        "`s3://BUCKET` or `s3://BUCKET/PREFIX`. Needs the extra `s3`; credentials come from the "
        "variables `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN` alone.",
        why="None: otherwise whoever may ingest could read whatever those credentials open.",
    )
    s3_endpoint: HttpUrl | None = setting(
        None,
        "URL of the object storage.",
        why="Null: that of the variable `AWS_ENDPOINT_URL`, or else Amazon's.",
    )
    webhook_secret: Secret | None = setting(
        None,
        "If set, POST /hooks/ingest requires X-Modelium-Timestamp, and in X-Modelium-Signature an "
        "HMAC-SHA256 of that time, a dot and the body.",
        why="Null: the gateway's own authentication applies, which needs none on loopback.",
    )
    webhook_window_seconds: Interval = setting(
        300.0,
        "How far the time of a signed request to POST /hooks/ingest may be from the service's. "
        "Within it, each request is accepted once.",
        why="Five minutes, as of other services: more than clocks differ and requests take.",
    )
