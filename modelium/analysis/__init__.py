"""What a dropped folder is and what it needs: reads headers, runs nothing, trusts nothing.

The public face:

- `inspect_files` (safety alone), `is_complete`, `digest`, `unpack`: before a drop is taken in;
- `analyze`: a `ModelProfile`; `read_catalog`: what the installed engines can serve;
- `estimate`, `fit`, `kv_bytes`, `settings_digest`: memory, as pure arithmetic.
"""

from modelium.analysis.catalog import EngineCatalog, read_catalog
from modelium.analysis.checks.archives import unpack
from modelium.analysis.checks.completeness import is_complete
from modelium.analysis.checks.digest import digest
from modelium.analysis.checks.safety import FileReport, inspect_files
from modelium.analysis.memory.fitting import fit
from modelium.analysis.memory.footprint import estimate, settings_digest
from modelium.analysis.memory.kv_cache import kv_bytes
from modelium.analysis.profile import analyze

__all__ = [
    "EngineCatalog",
    "FileReport",
    "analyze",
    "digest",
    "estimate",
    "fit",
    "inspect_files",
    "is_complete",
    "kv_bytes",
    "read_catalog",
    "settings_digest",
    "unpack",
]
