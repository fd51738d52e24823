"""HTTP client of the admin API."""

from __future__ import annotations

import os
import ssl
from typing import Any

import httpx

from modelium.config import Config, Gateway
from modelium.config.hosts import authority
from modelium.control import addresses
from modelium.errors import ConfigError, InputError, ModeliumError, Unavailable

TIMEOUT_S = 30.0
"""For requests that the service answers immediately."""


class Client:
    """Calls the gateway at ``MODELIUM_URL``, else of the running service, else as configured."""

    def __init__(self, *, config: Config) -> None:
        """Determine the address; sends nothing."""
        gateway = config.gateway
        scheme = "https" if gateway.tls_certificate else "http"
        own = (
            addresses.read(config.orchestration.state).get("gateway")
            or f"{scheme}://{authority(gateway.host, gateway.port)}"
        )
        given = os.environ.get("MODELIUM_URL")
        self.url = given or own
        token = gateway.token.get_secret_value() if gateway.token else None
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=TIMEOUT_S,
            trust_env=False,
            verify=trust(self.url, gateway, own=not given),
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


def trust(url: str, gateway: Gateway, *, own: bool) -> ssl.SSLContext | bool:
    """Return by what the certificate of the gateway at ``url`` is checked.

    Args:
        url: ``http`` or ``https``.
        gateway: the configuration.
        own: whether it is that of this machine, whose certificate is `gateway.tls_certificate` and
            may be made out to a name that only others use. Else `gateway.tls_ca` applies.

    Raises:
        ConfigError: a file cannot be read.
    """
    if not url.startswith("https://"):
        return True
    file = gateway.tls_certificate if own else gateway.tls_ca
    try:
        context = ssl.create_default_context(cafile=file)
    except (OSError, ValueError) as exc:
        field = "tls_certificate" if own else "tls_ca"
        raise ConfigError(f"gateway.{field}: cannot read certificates of {file} ({exc})") from exc
    if own and file is not None:
        context.check_hostname = False
        # The gateway's own certificate is enough, whoever has signed it.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
