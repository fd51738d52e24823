"""The ``logging`` section."""

from __future__ import annotations

from typing import Annotated, Literal

from modelium.config.fields import Section, note, setting


class Logging(Section):
    """What `modelium up` prints; `modelium.log` in the state directory has everything."""

    level: Annotated[
        Literal["warning", "info", "debug"], note(allowed="`warning`, `info` or `debug`")
    ] = setting(
        "warning",
        "Lowest level of the log lines that `modelium up` prints beside one line per event. From "
        "`info` on, this includes those of Prefect, Ray and other libraries, as `--verbose` does.",
        why="Warning: the events say what happens to the models; the rest is in the log file.",
    )
