"""The admin API's routes about the machines that share the store."""

from __future__ import annotations

from fastapi import APIRouter

from modelium.control.node_operations import (
    JoinToken,
    NodeDetail,
    NodeOperations,
    NodeRow,
    Removed,
)
from modelium.gateway.api.teams import only_operators


def add(api: APIRouter, nodes: NodeOperations) -> None:
    """Add the routes to ``api``: reading is for every key with admin, changes are operators'."""
    changes = [only_operators("change which machines are used")]

    @api.get("/nodes")
    async def all_nodes() -> list[NodeRow]:
        return await nodes.all()

    @api.post("/nodes/token", status_code=201, dependencies=changes)
    async def token() -> JoinToken:
        return await nodes.issue_token()

    @api.get("/nodes/{node}")
    async def show(node: str) -> NodeDetail:
        return await nodes.show(node)

    @api.post("/nodes/{node}/cordon", dependencies=changes)
    async def cordon(node: str) -> NodeRow:
        return await nodes.set_state(node, "cordoned")

    @api.post("/nodes/{node}/uncordon", dependencies=changes)
    async def uncordon(node: str) -> NodeRow:
        return await nodes.set_state(node, "active")

    @api.post("/nodes/{node}/drain", dependencies=changes)
    async def drain(node: str) -> NodeRow:
        return await nodes.set_state(node, "draining")

    @api.delete("/nodes/{node}", dependencies=changes)
    async def remove(node: str) -> Removed:
        return await nodes.remove(node)
