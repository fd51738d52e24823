"""Opens a loaded model for requests, with the paths that it serves."""

from __future__ import annotations

from modelium.models import Deployment, Model, Upstream
from modelium.models.openai_paths import served_paths
from modelium.stages.locality import answers_here
from modelium.stages.services import Services


def open_model(services: Services, model: Model, deployment: Deployment) -> None:
    """Route requests for ``model`` to ``deployment``; do nothing while it has no upstream.

    Nor for a twin, which serves only once it has taken over, and for a model being removed.
    """
    if not answers_here(services, deployment):
        return
    upstream = routed(model, deployment)
    if upstream is not None and model.twin_of is None and model.removal is None:
        services.switchboard.open(model.name, upstream, version=deployment.version)


def routed(model: Model, deployment: Deployment) -> Upstream | None:
    """Return where requests for ``model`` go, with the paths that it serves there."""
    if deployment.upstream is None:
        return None
    paths = served_paths(deployment.runtime, model.profile, deployment.settings)
    return deployment.upstream.model_copy(update={"paths": paths})
