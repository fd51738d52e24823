"""The ``repository`` section: files of models on several machines."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict

from modelium.config.fields import Section, Switch, note, setting

Rate = Annotated[float, Strict(), Field(gt=0), note(unit="MiB/s")]


class RepositorySection(Section):
    """How this machine gets the files of models that were registered on another one."""

    shared: Switch = setting(
        False,
        "Whether `orchestration.model_repository`, the drop zone beside it and the folder of "
        "rejected drops are one mount on several machines. One of them at a time watches it.",
        why="False: a repository of this machine's own.",
    )
    fetch: Switch = setting(
        False,
        "Whether files that a model needs here are fetched from a machine that has them.",
        why="False: models are loaded where their files are.",
    )
    fetch_mib_per_s: Rate | None = setting(
        None,
        "Most that all fetches of this machine together take of the network.",
        why="Null: no limit.",
    )
