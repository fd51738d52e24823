from __future__ import annotations

from pathlib import Path

from modelium.models import LoadSettings


def test_the_seeds_batch_size_is_a_default(tmp_path: Path) -> None:
    from runtimes.loading.settings import complete

    filled = complete(LoadSettings(), {"max_batch_size": 8, "other": True})
    assert filled.max_num_seqs == 8
    assert filled.extra == {"other": True}
    assert complete(LoadSettings(max_num_seqs=2), {"max_batch_size": 8}).max_num_seqs == 2
