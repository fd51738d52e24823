"""Copies a model from object storage to this machine, file by file. Every call blocks.

Only what the configuration names is read, with credentials of the environment alone: none of this
machine's files or metadata service. What a try has copied whole is not copied again.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from modelium.analysis.readers.folder import MAX_FILES, inside, shown
from modelium.config.hosts import addresses, is_metadata
from modelium.errors import InputError, TransientError, Unavailable
from modelium.intake.removal import remove
from modelium.intake.space import need_space

SCHEME = "s3://"

AT_ONCE = 4
"""Files that are copied at once."""

CHUNK = 8 * 1024**2
"""Bytes that are read at once, per file."""

CONNECT_S, READ_S = 10, 60
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
NOTES = "copied.json"
"""Beside what is copied: which files are whole, each with its size and tag."""

COPYING = ".modelium-copying-"

Progress = Callable[[int, int], None]
"""Called with the bytes that are here, and those of the whole. From any thread."""


def is_url(path: str) -> bool:
    """Whether ``path`` names something in object storage."""
    return "://" in path


def check_url(url: str, sources: Iterable[str]) -> None:
    """Make sure that ``url`` may be read: it is one of ``sources``, or below one.

    Raises:
        InputError: it is not, or is no plain URL of object storage.
    """
    parts = urlsplit(url)
    names = parts.path.strip("/").split("/") if parts.path.strip("/") else []
    plain = (
        url.startswith(SCHEME)
        and parts.netloc
        and not set(url) & set("?#*[]\\@%")
        and all(name not in ("", ".", "..") for name in names)
        and url.isprintable()
    )
    if not plain:
        raise InputError(f"{shown(url)!r} is no URL like s3://BUCKET/PREFIX")
    wanted = url.rstrip("/") + "/"
    if not any(wanted.startswith(source.rstrip("/") + "/") for source in sources):
        raise InputError(
            f"{shown(url)!r} is none of the places in ingest.sources; an operator may add it there"
        )


@dataclass(frozen=True, slots=True)
class _Object:
    """A file in object storage."""

    key: str
    name: str
    """Relative to the model's folder."""
    size: int
    tag: str

    @property
    def version(self) -> list[object]:
        """What changes with its content."""
        return [self.size, self.tag]


@dataclass(kw_only=True)
class Download:
    """One copy of what is below ``url``, into a folder of its own below ``folder``."""

    url: str
    folder: Path
    """Where this URL's copy is made; it survives what interrupts it."""
    endpoint: str | None = None
    """URL of the service; ``None``: of the environment (``AWS_ENDPOINT_URL``), else Amazon's."""
    allowed: frozenset[str] = frozenset()
    """Hosts that may be link-local: `orchestration.allowed_link_local`."""
    reserve_bytes: int = 0
    """That have to stay free on the disk."""
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    _done: dict[str, list[object]] = field(default_factory=dict)
    _arrived: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)

    def run(self, progress: Progress) -> Path:
        """Copy it; return the path of the model's folder, or of its only file.

        Raises:
            InputError: nothing is there, or it cannot be a model.
            Unavailable: the service does not answer, or refuses; what is here is kept.
            OSError: it does not fit on the disk.
        """
        found, single = self._listed()
        target = self.folder / self.url.rstrip("/").rpartition("/")[2]
        root = self.folder if single else target
        root.mkdir(parents=True, exist_ok=True)
        self._done = self._resumed(root, found)
        total = sum(each.size for each in found)
        missing = [each for each in found if each.name not in self._done]
        need_space(self.folder, sum(each.size for each in missing) + self.reserve_bytes)
        self._arrived = total - sum(each.size for each in missing)
        progress(self._arrived, total)
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="download") as pool:
            work = [pool.submit(self._copy, root, each, total, progress) for each in missing]
            try:
                for one in work:
                    one.result()
            except BaseException:
                self.stop()
                for one in work:
                    one.cancel()
                raise
        return target

    def stop(self) -> None:
        """Have `run` end soon, from any thread."""
        self._ended.set()

    def _listed(self) -> tuple[list[_Object], bool]:
        """Return the files of the model, and whether it is a single one."""
        base = self.url.removeprefix(SCHEME).rstrip("/")
        found: list[_Object] = []
        with _told(self.url):
            for _folder, _inner, files in self._files.walk(base, detail=True):
                for info in files.values():
                    key = str(info["name"])
                    name = key.removeprefix(f"{base}/")
                    if key.startswith(f"{base}/") and name and not name.endswith("/"):
                        found.append(_Object(key, name, int(info["size"]), _tag(info)))
                if len(found) > MAX_FILES:
                    raise InputError(f"{self.url} has more than {MAX_FILES} files; name one model")
            if not found and self._files.isfile(base):
                info = self._files.info(base)
                name = base.rpartition("/")[2]
                return [_Object(base, name, int(info["size"]), _tag(info))], True
        if not found:
            raise InputError(f"nothing is at {self.url}; check the bucket and the prefix")
        for each in found:
            if not inside(each.name):
                raise InputError(f"{self.url} has a file with an unsafe name: {shown(each.name)!r}")
        return found, False

    def _resumed(self, root: Path, found: list[_Object]) -> dict[str, list[object]]:
        """Return what is here and still the same there; delete everything else."""
        try:
            noted = json.loads((self.folder / NOTES).read_text())
        except (OSError, ValueError):
            noted = {}
        same = {
            each.name: each.version
            for each in found
            if isinstance(noted, dict)
            and noted.get(each.name) == each.version
            and _size(root / each.name) == each.size
        }
        for path in [p for p in root.rglob("*") if not p.is_dir() or p.is_symlink()]:
            if str(path.relative_to(root)) not in same and path.name != NOTES:
                path.unlink()
        return same

    def _copy(self, root: Path, each: _Object, total: int, progress: Progress) -> None:
        path = root / each.name
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{COPYING}{path.name}"[:255])
        with (
            _told(self.url),
            self._files.open(each.key, "rb", block_size=CHUNK, cache_type="none") as source,
            fresh.open("wb") as out,
        ):
            while part := source.read(CHUNK):
                if self._ended.is_set():
                    raise Unavailable("it was stopped")
                out.write(part)
                with self._lock:
                    self._arrived += len(part)
                    progress(self._arrived, total)
        if _size(fresh) != each.size:
            raise Unavailable(f"{each.name} changed while it was copied from {self.url}")
        os.rename(fresh, path)
        with self._lock:
            self._done[each.name] = each.version
            note = self.folder / f".{NOTES}"
            note.write_text(json.dumps(self._done))
            os.rename(note, self.folder / NOTES)

    @cached_property
    def _files(self) -> Any:
        """The service, with credentials of the environment and of nowhere else."""
        try:
            import fsspec
            import s3fs  # noqa: F401 - fsspec needs it
        except ImportError as exc:
            raise InputError(
                "s3:// URLs need s3fs: pip install s3fs, or Modelium's extra `s3`"
            ) from exc
        environ = self.environ
        endpoint = (
            self.endpoint or environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
        )
        if endpoint:
            _check_endpoint(endpoint, self.allowed)
        key = environ.get("AWS_ACCESS_KEY_ID")
        region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
        return fsspec.filesystem(
            "s3",
            key=key,
            secret=environ.get("AWS_SECRET_ACCESS_KEY"),
            token=environ.get("AWS_SESSION_TOKEN"),
            anon=key is None,  # else others would be looked for, at last on the metadata service
            endpoint_url=endpoint or None,
            client_kwargs={"region_name": region or "us-east-1"},
            config_kwargs={"connect_timeout": CONNECT_S, "read_timeout": READ_S},
            skip_instance_cache=True,
            use_listings_cache=False,
            default_fill_cache=False,
        )


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Turn what the client raises inside into errors of Modelium, which show no credentials."""
    try:
        yield
    except (InputError, TransientError):
        raise
    except PermissionError as exc:
        raise InputError(
            f"{url} may not be read: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the "
            "service's environment to those of who may"
        ) from exc
    except FileNotFoundError as exc:
        raise InputError(f"nothing is at {url}; check the bucket and the prefix") from exc
    except Exception as exc:
        if isinstance(exc, OSError) and exc.errno in DISK:
            raise
        raise Unavailable(f"{url} cannot be read now: {type(exc).__name__}") from exc


def _check_endpoint(endpoint: str, allowed: frozenset[str]) -> None:
    """Refuse an endpoint where a cloud gives out the machine's credentials."""
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host:
        raise InputError("AWS_ENDPOINT_URL: not an http:// or https:// URL")
    if host not in allowed and any(map(is_metadata, (host, *addresses(host)))):
        raise InputError(
            f"the endpoint {host} is a link-local or metadata address; name the host in "
            "orchestration.allowed_link_local if that is meant"
        )


def _tag(info: Mapping[str, Any]) -> str:
    return str(info.get("ETag") or info.get("LastModified") or "")


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return -1


def clear_old(folder: Path, *, before: float) -> None:
    """Delete what was copied before the instant ``before`` (epoch), and never taken in."""
    with suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            if entry.stat(follow_symlinks=False).st_mtime < before:
                with suppress(OSError):
                    remove(Path(entry.path))
