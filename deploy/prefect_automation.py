"""Example of a Prefect automation: load a model when another one becomes ready.

    eval "$(modelium prefect env)" && python deploy/prefect_automation.py \
        --ready chat-model --load reranker

docs/prefect.md lists the events that automations can react to; Prefect's documentation lists the
other actions (webhooks, notifications, pausing a schedule). Running this again replaces the
automation.
"""

from __future__ import annotations

import argparse

from prefect.automations import Automation, EventTrigger, Posture, RunDeployment
from prefect.client.orchestration import get_client


def automation(*, ready: str, load: str) -> Automation:
    """Return the automation, for the server at PREFECT_API_URL."""
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("load/load")
        name = f"load {load} when {ready} is ready"
        for known in client.read_automations_by_name(name):
            client.delete_automation(known.id)
    return Automation(
        name=name,
        trigger=EventTrigger(
            expect={"modelium.model.ready"},
            match={"prefect.resource.id": f"modelium.model.{ready}"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            RunDeployment(
                source="selected", deployment_id=deployment.id, parameters={"model": load}
            )
        ],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ready", required=True, metavar="MODEL", help="the model to wait for")
    parser.add_argument("--load", required=True, metavar="MODEL", help="the model to load then")
    made = automation(**vars(parser.parse_args())).create()
    print(f"created: {made.name}")
