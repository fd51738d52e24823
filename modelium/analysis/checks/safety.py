"""The safety checks of a dropped folder, made before any of its files is parsed."""

from __future__ import annotations

import zipfile
from pathlib import Path

from modelium.analysis.readers.code_references import (
    PIPELINE_INDEX,
    SERVE_FILE,
    foreign_components,
    is_code,
    names_code,
    names_foreign_parent,
)
from modelium.analysis.readers.folder import FileEntry, Folder, shown
from modelium.analysis.readers.modules_file import refuse_foreign_modules
from modelium.analysis.readers.openvino_ir import is_network
from modelium.analysis.readers.shard_index import SUFFIX as INDEX_SUFFIX
from modelium.analysis.readers.shard_index import read_index
from modelium.analysis.readers.triton_config import triton_arguments, triton_code
from modelium.analysis.readers.zip_directory import AbsurdDirectory, open_zip
from modelium.errors import DropRejected
from modelium.models import Frozen

PICKLE_APPROVAL = "pickle"
CODE_APPROVAL = "remote-code"

PICKLE_SUFFIXES = frozenset(
    [
        ".bin",
        ".pt",
        ".pth",
        ".ckpt",
        ".pkl",
        ".pickle",
        ".joblib",
        ".dill",
        ".npy",
        ".npz",
        ".mar",
        ".nemo",
        ".pdparams",
        ".pt2",
    ]
)
"""Files that their usual readers unpickle (``.npy``/``.npz`` may hold pickled objects)."""
ARCHIVE_SUFFIXES = frozenset(
    [".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".whl", ".egg", ".keras"]
)
TEXT_SUFFIXES = frozenset(
    [
        ".json",
        ".jsonl",
        ".txt",
        ".md",
        ".model",
        ".safetensors",
        ".gguf",
        ".onnx",
        ".pbtxt",
        ".xml",
        ".jinja",
        ".yaml",
        ".yml",
        ".csv",
        ".tsv",
        ".html",
        ".png",
        ".jpg",
        ".jpeg",
        ".gif",
        ".svg",
        ".webp",
        ".pdf",
        ".wav",
        ".mp3",
        ".flac",
        ".gitattributes",
    ]
)
"""Formats with a parser of their own, or that nothing parses: not checked for pickles."""
_OTHER_LOADERS = frozenset({"config.json", "adapter_config.json", PIPELINE_INDEX})
"""Configurations of transformers, PEFT and diffusers, which unpickle ``.bin``."""
_PICKLE_MAGIC = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


class SafetyReport(Frozen):
    """The result of the safety checks of an accepted drop."""

    files: int
    total_bytes: int
    code: tuple[str, ...] = ()
    """Files that are or name code; empty without the approval ``remote-code``."""
    pickles: tuple[str, ...] = ()
    """Files whose readers unpickle; empty without the approval ``pickle``."""


def inspect_files(path: Path, *, approvals: frozenset[str] = frozenset()) -> SafetyReport:
    """Refuse what could run code or read outside the folder; nothing is parsed beyond headers.

    ``approvals`` may hold ``pickle`` and ``remote-code``. Raises `DropRejected`.
    """
    refuse_link(path)
    return inspect_folder(Folder(path), approvals=approvals)


def refuse_link(path: Path) -> None:
    """Raise `DropRejected` where the dropped path itself is a symbolic link."""
    if path.is_symlink():
        raise DropRejected(
            f"{shown(path.name)!r} is a link. Drop the folder itself.", reason="link-outside"
        )


def inspect_folder(folder: Folder, *, approvals: frozenset[str]) -> SafetyReport:
    """`inspect_files` for a folder that is already listed."""
    pickles = [f.name for f in folder.files if _is_pickle(folder, f)]
    pickles += _indexed_pickles(folder)
    if pickles and PICKLE_APPROVAL not in approvals:
        raise DropRejected(
            f"{shown(pickles[0])!r}{_more(pickles)} is pickle-based: opening it can run code. "
            "Convert the weights to safetensors or ONNX and delete it, or have an operator "
            "approve `pickle` for this model.",
            reason="pickle",
            approvable=True,
        )
    code = [f.name for f in folder.files if is_code(f.name)]
    code += _configured_code(folder)
    code += triton_code(folder)
    refuse_foreign_modules(folder)
    approved = CODE_APPROVAL in approvals
    if not approved and (arguments := triton_arguments(folder)):
        raise DropRejected(
            f"{shown(arguments[0])!r}{_more(arguments)} is no plain argument of vLLM with a plain "
            "value, or leads out of the model's folder. Remove it, put the files into the folder, "
            "or have an operator approve `remote-code` for this model.",
            reason="remote-code",
            approvable=True,
        )
    if code and not approved:
        raise DropRejected(
            f"{shown(code[0])!r}{_more(code)} is or names code that a runtime would run. "
            "Remove it (and `auto_map`) if the runtime supports the architecture, or have an "
            "operator approve `remote-code` for this model.",
            reason="remote-code",
            approvable=True,
        )
    for entry in folder.having(*ARCHIVE_SUFFIXES):
        raise DropRejected(
            f"{shown(entry.name)!r} is an archive inside a folder. Drop its contents, or the "
            "archive alone.",
            reason="nested-archive",
        )
    return SafetyReport(
        files=len(folder.files),
        total_bytes=sum(f.size for f in folder.files),
        code=tuple(code),
        pickles=tuple(pickles),
    )


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _is_pickle(folder: Folder, entry: FileEntry) -> bool:
    if entry.suffix == ".bin":
        return not _is_openvino_weights(folder, entry)
    if entry.suffix in PICKLE_SUFFIXES:
        return True
    if entry.suffix in TEXT_SUFFIXES:
        return False
    head = folder.read(entry.name, limit=4)
    if head.startswith(_PICKLE_MAGIC):
        return True
    return head.startswith(b"PK") and _zip_holds_pickle(folder.path(entry.name))


def _is_openvino_weights(folder: Folder, entry: FileEntry) -> bool:
    """``model.bin`` beside ``model.xml`` is a blob that OpenVINO maps, unless it is a pickle.

    Old pickles have no mark, so that no other loader may take it for weights: the XML file is
    OpenVINO's, and nothing in the folder says that it is another library's.
    """
    network = entry.name.removesuffix(".bin") + ".xml"
    if network not in folder or entry.name.rpartition("/")[2].startswith("pytorch_model"):
        return False
    if any(file.name.rpartition("/")[2] in _OTHER_LOADERS for file in folder.files):
        return False
    head = folder.read(entry.name, limit=4)
    return not head.startswith((*_PICKLE_MAGIC, b"PK")) and is_network(folder, network)


def _zip_holds_pickle(path: Path) -> bool:
    try:
        with open_zip(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    except AbsurdDirectory:
        return True
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


def _indexed_pickles(folder: Folder) -> list[str]:
    """Files that a shard index points at although their readers would unpickle them.

    Raises `DropRejected` for names that leave the folder.
    """
    found: list[str] = []
    for entry in folder.files:
        if not entry.name.endswith(INDEX_SUFFIX):
            continue
        for shard in sorted(folder.parse(entry.name, read_index)):
            if Path(shard).suffix.lower() in PICKLE_SUFFIXES:
                found.append(f"{entry.name} → {shard}")
    return found


def _configured_code(folder: Folder) -> list[str]:
    """Configuration files that make a loader import code."""
    found: list[str] = []
    for entry in folder.files:
        if not entry.name.endswith("config.json"):
            continue
        try:
            config = folder.json(entry.name)
        except DropRejected as exc:
            # sentence-transformers lists its training data in data_config.json: no loader
            # takes a list for a configuration. What has to be one is read by its profiler.
            if exc.reason == "no-json-object" and entry.name.rpartition("/")[2] != "config.json":
                continue
            raise
        if names_code(config):
            found.append(f"{entry.name} (auto_map)")
        if names_foreign_parent(config):
            found.append(f"{entry.name} (auto_mapping)")
    if SERVE_FILE in folder:  # it may name an installed module
        found.append(f"{SERVE_FILE} (import_path)")
    return found + _diffusers_code(folder)


def _diffusers_code(folder: Folder) -> list[str]:
    if PIPELINE_INDEX not in folder:
        return []
    foreign = foreign_components(folder.json(PIPELINE_INDEX))
    return [f"{PIPELINE_INDEX} ({shown(name)})" for name in foreign]
