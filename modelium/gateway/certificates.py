"""The gateway's certificate: checked at the start, read again when its files change."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from modelium.config import Gateway
from modelium.errors import ConfigError

logger = logging.getLogger(__name__)

LOOK_S = 5.0
"""Between two looks at the files."""

SOON = timedelta(days=14)
"""From when on it is said that the certificate expires: most are renewed at 30 days."""


class Certificate:
    """The certificate and key that new connections are served with."""

    def __init__(self, *, certificate: Path, key: Path | None) -> None:
        """Read both.

        Args:
            certificate: PEM, the gateway's own first, then its chain.
            key: PEM; ``None``: it is in ``certificate``.

        Raises:
            ConfigError: one cannot be read, or they do not belong together.
        """
        self._certificate = certificate
        self._key = key
        self._seen = self._stamp()
        self.context = self._context()
        self._expires_at = expiry_of(certificate)
        if notice := self.notice(datetime.now(UTC)):
            logger.warning("%s", notice)

    def notice(self, now: datetime) -> str | None:
        """Return what operators should know of it; ``None``: nothing."""
        if self._expires_at is None or now < self._expires_at - SOON:
            return None
        tense = "expired" if self._expires_at <= now else "expires"
        return (
            f"gateway.tls_certificate: {self._certificate} {tense} on {self._expires_at:%Y-%m-%d}; "
            "replace the file, it is read again by itself"
        )

    def reload(self) -> bool:
        """Serve new connections with what is in the files now, if they changed; whether they did.

        What cannot be used is logged and left alone: the earlier ones go on being served.
        """
        seen = self._stamp()
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            self._context()  # a key that does not match would break the one in use
            self.context.load_cert_chain(self._certificate, self._key, _no_password)
        except (ConfigError, OSError, ValueError) as exc:
            logger.warning("%s; the certificate of before is served on", exc)
            return False
        self._expires_at = expiry_of(self._certificate)
        logger.info("gateway.tls_certificate: %s was read again", self._certificate)
        return True

    async def watch(self) -> None:
        """Look at the files periodically, for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.reload()

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        for field, file in (("tls_certificate", self._certificate), ("tls_key", self._key)):
            if file is not None:
                _readable(f"gateway.{field}", file)
        try:
            context.load_cert_chain(self._certificate, self._key, _no_password)
        except (ssl.SSLError, ValueError) as exc:
            raise ConfigError(_explained(self._certificate, self._key, exc)) from exc
        return context

    def _stamp(self) -> tuple[object, ...]:
        files = [self._certificate, *([self._key] if self._key else [])]
        found: list[object] = []
        for file in files:
            try:
                stat = file.stat()
            except OSError:
                found.append(None)
            else:
                found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return tuple(found)


def certificate_of(config: Gateway) -> Certificate | None:
    """Return the certificate of the gateway; ``None``: it speaks plain HTTP.

    Raises:
        ConfigError: as `Certificate`, or there is a key alone.
    """
    if config.tls_certificate is None:
        if config.tls_key is not None:
            raise ConfigError(
                "gateway.tls_key: there is no gateway.tls_certificate that it could be of; set both"
            )
        return None
    return Certificate(certificate=config.tls_certificate, key=config.tls_key)


def trust_of(config: Gateway) -> Callable[[], ssl.SSLContext]:
    """Return what makes the context that other nodes' certificates are checked by.

    Raises:
        ConfigError: `gateway.tls_ca` has no certificates.
    """
    authorities = config.tls_ca
    if authorities is not None:
        _trusting(authorities)
    return lambda: _trusting(authorities)


def _trusting(authorities: Path | None) -> ssl.SSLContext:
    if authorities is not None:
        _readable("gateway.tls_ca", authorities)
    try:
        context = ssl.create_default_context(cafile=authorities)
    except (ssl.SSLError, ValueError) as exc:
        raise ConfigError(
            f"gateway.tls_ca: {authorities} has no certificates in PEM format ({exc})"
        ) from exc
    context.set_alpn_protocols(["http/1.1"])
    return context


def expiry_of(certificate: Path) -> datetime | None:
    """Return when the first certificate in a file ends; ``None``: this cannot be told."""
    from cryptography import x509  # where it is needed: it takes 50 ms

    try:
        return x509.load_pem_x509_certificates(certificate.read_bytes())[0].not_valid_after_utc
    except (OSError, ValueError):
        return None


def _readable(field: str, file: Path) -> None:
    try:
        with file.open("rb"):
            pass
    except OSError as exc:
        raise ConfigError(
            f"{field}: cannot read {file} ({exc.strerror or exc}); Modelium's user needs to"
        ) from exc


def _no_password() -> str:
    # Without it, OpenSSL would ask on the terminal.
    raise ValueError("the key has a password")


def _explained(certificate: Path, key: Path | None, exc: Exception) -> str:
    text = str(exc).upper()
    if "PASSWORD" in text:
        field = "tls_key" if key else "tls_certificate"
        return f"gateway.{field}: the key in {key or certificate} has a password; remove it"
    if "KEY_VALUES_MISMATCH" in text or "KEY VALUES MISMATCH" in text:
        return (
            f"gateway.tls_key: the key in {key or certificate} is not that of the first "
            f"certificate in {certificate}"
        )
    return (
        f"gateway.tls_certificate: {certificate} and {key or 'it'} are no certificate and its key "
        f"in PEM format ({exc})"
    )
