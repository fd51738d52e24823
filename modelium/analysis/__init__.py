"""Identifies a dropped folder and estimates its memory: reads headers, runs nothing.

All content of a drop is treated as hostile. The public interface:

- `examine`: safety, completeness and profile of a drop from one scan; ingest calls it;
- `inspect_files`, `is_complete`, `analyze`: the same three, one at a time;
- `refuse_link`: refuses a drop that is a link;
- `digest`, `seal`, `unpack`: content hash of a folder; whether it may have changed since; safe
  extraction of an archive;
- `unlay`: removes what Modelium laid beside a model's files for Triton;
- `owner_note`: what the note beside a model's files asks for;
- `read_catalog`: which models the installed engines can serve;
- `estimate`, `kv_bytes`, `settings_digest`: memory, as pure arithmetic.
"""

from modelium.analysis.catalog import EngineCatalog, read_catalog
from modelium.analysis.checks.archives import unpack
from modelium.analysis.checks.completeness import is_complete
from modelium.analysis.checks.digest import digest, seal
from modelium.analysis.checks.safety import SafetyReport, inspect_files, refuse_link
from modelium.analysis.examination import Examination, analyze, examine
from modelium.analysis.memory.footprint import estimate, settings_digest
from modelium.analysis.memory.kv_cache import kv_bytes
from modelium.analysis.readers.laid import unlay
from modelium.analysis.readers.owner_note import owner_note

__all__ = [
    "EngineCatalog",
    "Examination",
    "SafetyReport",
    "analyze",
    "digest",
    "estimate",
    "examine",
    "inspect_files",
    "is_complete",
    "kv_bytes",
    "owner_note",
    "read_catalog",
    "refuse_link",
    "seal",
    "settings_digest",
    "unlay",
    "unpack",
]
