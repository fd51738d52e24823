"""What engines may touch: confined by Landlock, where the kernel has it (see `confine`)."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modelium.errors import FailureKind, LoadFailed, Unavailable
from runtimes.process import confine
from runtimes.process.places import readable_places, within, writable_places
from runtimes.process.socket_folder import empty, open_private, socket_folder

Mode = Literal["auto", "off", "required"]

PROGRAM = Path(confine.__file__)
SECRETS = (
    *(".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".netrc", ".git-credentials"),
    *(".pgpass", ".config/gcloud", ".config/gh", ".config/modelium", ".bash_history"),
    *(".cache/huggingface/token", ".cache/huggingface/stored_tokens", ".huggingface"),
    *(".prefect", ".ngc", ".kaggle", ".oci", ".cargo/credentials.toml", ".config/rclone"),
    *(".config/containers", ".password-store", ".local/share/keyrings"),
)
"""In the home directory."""
SYSTEM_SECRETS = (
    *map(Path, ("/root/.ssh", "/run/secrets", "/run/credentials")),
    *(Path("/etc", name) for name in ("modelium", "shadow", "shadow-", "gshadow", "gshadow-")),
    *(
        Path("/etc", name)
        for name in ("ssh", "ssl/private", "kubernetes", "rancher", "krb5.keytab")
    ),
    *(Path("/sys/kernel", name) for name in ("debug", "tracing")),
)
"""Containers and systemd fill those in /run for the service; most others are root's alone."""
CACHES = (
    *("VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT", "TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR"),
    *("TRITON_CACHE_DIR", "FLASHINFER_WORKSPACE_BASE", "CUDA_CACHE_PATH", "TORCH_HOME"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_MODULES_CACHE", "HUGGINGFACE_HUB_CACHE"),
)
"""Variables that name folders in which engines keep what they compile."""
SHARED_MEMORY = ("/dev/shm",)  # noqa: S108 - where Linux keeps it
LONGEST_SOCKET = 60
"""Bytes that engines add to TMPDIR for their sockets; vLLM's are UUIDs."""


def unavailable() -> str:
    """Return why this machine cannot confine engines; empty if it can."""
    if sys.platform != "linux":
        return "only Linux has Landlock"
    if confine.abi():
        return ""
    return "the kernel has no Landlock (Linux 5.13 or later, with `landlock` in its `lsm=`)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sandbox:
    """How the engines of one runtime are confined."""

    mode: Mode
    hidden: tuple[Path, ...]
    """What no engine may read, beside the user's credentials."""
    shown: tuple[Path, ...] = ()
    """What every engine may read although it is below a hidden folder."""
    writable: tuple[Path, ...] = ()
    """What every engine may change, beside its own folder, caches, shared memory and the GPUs."""

    def wrapped(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        *,
        work: Path,
        shown: Iterable[Path] = (),
        writable: Iterable[Path] = (),
        connects: bool = True,
    ) -> tuple[tuple[str, ...], dict[str, str], Path | None]:
        """Return command, environment and directory of a confined engine.

        It gets a folder for temporary files of its own, which is emptied first.

        Args:
            argv: the engine's command.
            environment: its whole environment.
            work: its own folder.
            shown: what it may read although it is hidden; paths in ``argv`` are added.
            writable: what it may change.
            connects: whether it may open TCP connections.

        Raises:
            LoadFailed: confinement is required, and the machine has none.
            FileNotFoundError: there is no such command.
            Unavailable: its folder belongs to another user, or was made a link.
        """
        missing = "" if self.mode == "off" else unavailable()
        if missing and self.mode == "required":
            raise LoadFailed(
                f"sandbox.mode is `required`, but {missing}; set it to `auto`, or update the host",
                kind=FailureKind.ENVIRONMENT,
            )
        if missing or self.mode == "off":
            return tuple(argv), dict(environment), None
        executable = shutil.which(argv[0], path=environment.get("PATH"))
        if executable is None:
            raise FileNotFoundError(2, os.strerror(2), argv[0])
        work = Path(os.path.abspath(work))
        temporary = socket_folder(work / "tmp", longest_name=LONGEST_SOCKET)
        own = {"TMPDIR": str(temporary), "HF_MODULES_CACHE": str(work / "modules")}
        variables = own | dict(environment) | {"TMPDIR": str(temporary)}
        caches = [work / variables[name] for name in CACHES if variables.get(name)]
        places = writable_places(
            map(str, (work, temporary)),
            (*map(str, (*caches, *self.writable, *writable)), *SHARED_MEMORY),
        )
        _prepare(work, temporary, places)
        for cache in caches:
            # What lies in a folder that the engine may change is the engine's to make: a link that
            # it laid there would lead this process astray.
            if str(cache) in places:
                Path(places[str(cache)]).mkdir(parents=True, exist_ok=True)
        home = Path(variables.get("HOME") or Path.home())
        secrets = (*SYSTEM_SECRETS, *(home / name for name in SECRETS), *_secrets_of_others())
        hidden = [str(path) for path in (*self.hidden, *secrets)]
        readable = (*self.shown, *shown, *_program(executable), *_named(argv))
        rules = {
            "hidden": hidden,
            "shown": readable_places(map(str, (*readable, *_files(environment, hidden))), places),
            # Root could change the kernel's settings below /proc.
            "writable": [*places.values(), "/proc" if os.getuid() else confine.OWN_PROCESS],
            "connects": connects,
        }
        variables[confine.VARIABLE] = json.dumps(rules)
        return (sys.executable, "-I", "-S", str(PROGRAM), *argv), variables, work


def _secrets_of_others() -> Iterator[Path]:
    """Yield the credentials of other users that there are, which root could read."""
    if os.geteuid() == 0:
        for home in sorted({user.pw_dir for user in pwd.getpwall()}):
            yield from (path for name in SECRETS if (path := Path(home, name)).exists())


def _named(argv: Sequence[str]) -> list[Path]:
    """Return the files and folders that a command names."""
    words = [word.partition("=")[2] if word.startswith("--") else word for word in argv]
    return [Path(word) for word in words if word.startswith("/") and os.path.exists(word)]


def _program(executable: str) -> list[Path]:
    """Return ``executable`` and the libraries beside it, which its `$ORIGIN` finds."""
    found = Path(executable).resolve()
    return [Path(executable), *sorted(found.parent.glob("*.so*"))]


def _prepare(work: Path, temporary: Path, places: Mapping[str, str]) -> None:
    """Make an engine's own folder and its empty one for temporary files.

    Raises:
        Unavailable: one of them belongs to another user.
    """
    for folder in (work, temporary):
        outer = next((o for o in places if folder != Path(o) and within(str(folder), o)), None)
        if outer:
            base = Path(places[outer])
            place = open_private(base / folder.relative_to(outer), changeable=base)
        elif str(folder) in places:
            place = open_private(folder)
        else:
            raise Unavailable(
                f"{folder} is reached through a link in a folder that engines may change: name the "
                "folders in the configuration by their real paths"
            )
        try:
            if folder == temporary:
                empty(place)
        finally:
            os.close(place)


def _files(environment: Mapping[str, str], hidden: Iterable[str]) -> list[str]:
    """Return the files that variables name, such as SSL_CERT_FILE; none that is hidden itself."""
    closed = [os.path.realpath(path) for path in hidden]
    words = {word for value in environment.values() for word in value.split(os.pathsep)}
    return [
        word
        for word in sorted(words)
        if word.startswith("/")
        and os.path.isfile(word)
        and not any(within(os.path.realpath(word), path) for path in closed)
    ]
