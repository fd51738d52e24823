"""HTTP calls that end in time and in memory, whatever the other side answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx


class BoundedHttp:
    """A client of programs that run the code of models and may answer anything."""

    def __init__(self) -> None:
        """Make a client that uses no proxy."""
        self._http = httpx.AsyncClient(timeout=None, trust_env=False)  # noqa: S113 - see `call`

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def call(
        self,
        method: str,
        url: str,
        *,
        timeout_s: float,
        limit: int,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> httpx.Response:
        """Return the whole response.

        Args:
            method: of HTTP.
            url: the address.
            timeout_s: for all of it: a timeout of each read would never end for who sends a byte
                now and then.
            limit: most bytes of the answer's body.
            headers: more of them.
            body: sent as JSON.

        Raises:
            httpx.HTTPError: no response within ``timeout_s``, or one that is too long or encoded.
        """
        plain = {"Accept-Encoding": "identity", **(headers or {})}
        request = self._http.build_request(method, url, headers=plain, json=body)
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._http.send(request, stream=True)
                try:
                    content = await _content(answer, limit)
                finally:
                    await answer.aclose()
        except TimeoutError as exc:
            raise httpx.ReadTimeout(
                f"no whole answer within {timeout_s:g} s", request=request
            ) from exc
        reason = {"reason_phrase": answer.extensions.get("reason_phrase", b"")}
        return httpx.Response(
            answer.status_code, content=content, request=request, extensions=reason
        )


async def _content(answer: httpx.Response, limit: int) -> bytes:
    # A few bytes can decode to gigabytes.
    if answer.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise httpx.DecodingError("the answer is encoded", request=answer.request)
    content = bytearray()
    async for part in answer.aiter_raw():
        content += part
        if len(content) > limit:
            raise httpx.ReadError(f"the answer has over {limit} bytes", request=answer.request)
    return bytes(content)
