"""The admin API's client, as the commands use it."""

from __future__ import annotations

import os
from typing import Any

import httpx

from modelium.config import Config
from modelium.control import addresses
from modelium.errors import InputError, ModeliumError, Unavailable

TIMEOUT_S = 30.0
"""For answers that need no waiting."""


class Client:
    """Calls the gateway that ``MODELIUM_URL``, the running service, or the configuration names."""

    def __init__(self, *, config: Config) -> None:
        """Find the address; nothing is sent yet."""
        gateway = config.gateway
        default = f"http://{gateway.host}:{gateway.port}"
        self.url = (
            os.environ.get("MODELIUM_URL")
            or addresses.read(config.orchestration.state).get("gateway")
            or default
        )
        token = gateway.token.get_secret_value() if gateway.token else None
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=TIMEOUT_S,
            trust_env=False,
        )

    def get(self, path: str, **query: Any) -> Any:
        """GET, decoded."""
        return self._call("GET", path, params=query)

    def send(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, wait_s: float = 0.0
    ) -> Any:
        """Send ``body``; waits up to ``wait_s`` for the outcome of an intent."""
        return self._call(
            method,
            path,
            json=body,
            params={"wait": wait_s} if wait_s else {},
            timeout=TIMEOUT_S + wait_s,
        )

    def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            answer = self._http.request(method, f"/api/v1{path}", **options)
        except httpx.HTTPError as exc:
            raise Unavailable(
                f"no Modelium answers at {self.url} ({exc}); start one with `modelium up`, "
                "or name its address in MODELIUM_URL"
            ) from exc
        if answer.is_success:
            return answer.json()
        try:
            message = answer.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = answer.text[:500]
        kind = InputError if answer.status_code < 500 else ModeliumError
        raise kind(f"{message} (HTTP {answer.status_code})")
