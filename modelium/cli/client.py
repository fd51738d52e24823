"""HTTP client of the admin API."""

from __future__ import annotations

import os
from typing import Any

import httpx

from modelium.config import Config
from modelium.control import addresses
from modelium.errors import InputError, ModeliumError, Unavailable

TIMEOUT_S = 30.0
"""For requests that the service answers immediately."""


class Client:
    """Calls the gateway at ``MODELIUM_URL``, else of the running service, else as configured."""

    def __init__(self, *, config: Config) -> None:
        """Determine the address; sends nothing."""
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
        """Send a GET request and return the decoded response; raises as `send`."""
        return self._call("GET", path, params=query)

    def send(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        wait_s: float = 0.0,
        **query: Any,
    ) -> Any:
        """Send ``body`` and return the decoded response.

        Args:
            method: HTTP method.
            path: below ``/api/v1``.
            body: sent as JSON.
            wait_s: how long the service may wait for an intent to finish.
            query: further parameters.

        Raises:
            Unavailable: no service answers.
            InputError: the service refused the request.
            ModeliumError: the service failed.
        """
        return self._call(
            method,
            path,
            json=body,
            params={**query, **({"wait": wait_s} if wait_s else {})},
            timeout=TIMEOUT_S + wait_s,
        )

    def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            answer = self._http.request(method, f"/api/v1{path}", **options)
        except httpx.HTTPError as exc:
            raise Unavailable(
                f"cannot reach Modelium at {self.url} ({exc}); start it with `modelium up`, "
                "or set MODELIUM_URL to its address"
            ) from exc
        if answer.is_success:
            return answer.json()
        try:
            message = answer.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = answer.text[:500]
        kind = InputError if answer.status_code < 500 else ModeliumError
        raise kind(f"{message} (HTTP {answer.status_code})")
