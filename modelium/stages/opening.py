"""Opens a loaded model for requests, with the paths that it serves."""

from __future__ import annotations

from modelium.models import Deployment, Model
from modelium.models.openai_paths import served_paths
from modelium.stages.services import Services


def open_model(services: Services, model: Model, deployment: Deployment) -> None:
    """Route requests for ``model`` to ``deployment``; do nothing while it has no upstream."""
    upstream = deployment.upstream
    if upstream is None:
        return
    paths = served_paths(deployment.runtime, model.profile, deployment.settings)
    services.switchboard.open(
        model.name, upstream.model_copy(update={"paths": paths}), version=deployment.version
    )
