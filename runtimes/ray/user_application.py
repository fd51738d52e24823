"""Builds and deploys a user's application; runs as a task of Ray, in the application's environment.

It is sent by value, so it may import nothing of Modelium's.
"""

from __future__ import annotations

import importlib
import inspect
import typing
from typing import Any


def deploy(*, name: str, import_path: str, args: dict[str, Any], logging: dict[str, Any]) -> None:
    """Import ``module:attribute``, build the application and request it; return before it runs.

    The environment of this task becomes that of all its deployments.
    """
    from ray import serve

    module, _, attribute = import_path.partition(":")
    target = built(getattr(importlib.import_module(module), attribute), args)
    if not isinstance(target, serve.Application):
        raise TypeError(
            f"{import_path} is a {type(target).__name__}: it must be an application "
            "(Deployment.bind(...)) or a function that returns one"
        )
    serve.run_many(
        [
            serve.RunTarget(
                target=target, name=name, route_prefix=f"/{name}", logging_config=logging
            )
        ],
        wait_for_applications_running=False,
    )


def built(target: Any, args: dict[str, Any]) -> Any:
    """Return what a function builds from ``args``; anything else is returned as it is.

    As in Ray's own configuration files, the function has one parameter: a mapping or, by its
    annotation, a Pydantic model.
    """
    if not inspect.isroutine(target):
        return target
    parameters = list(inspect.signature(target).parameters.values())
    if not parameters:
        return target()
    kind = typing.get_type_hints(target).get(parameters[0].name)
    validate = getattr(kind, "model_validate", None)
    return target(validate(args) if validate is not None else args)
