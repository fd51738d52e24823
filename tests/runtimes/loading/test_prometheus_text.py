from __future__ import annotations

from runtimes.loading.prometheus_text import samples, totals

TEXT = r"""
# HELP requests_total All of them.
# TYPE requests_total counter
requests_total{model="a",reason="stop"} 3
requests_total{model="b",path="C:\\\"x\"",} 4.5 1700000000
vllm:running 2e1
free{} +Inf
lost{} NaN
broken{model="a"} many
 indented 1
no_value
{model="a"} 1
9starts_with_a_digit 1
empty{model=""} 0
"""


def test_every_sample_is_read_with_its_labels_and_nothing_else() -> None:
    assert list(samples(TEXT)) == [
        ("requests_total", {"model": "a", "reason": "stop"}, 3.0),
        ("requests_total", {"model": "b", "path": r"C:\\\"x\""}, 4.5),
        ("vllm:running", {}, 20.0),
        ("empty", {"model": ""}, 0.0),
    ]


def test_the_totals_are_sums_over_all_labels() -> None:
    assert totals(TEXT) == {
        "requests_total": 7.5,
        "vllm:running": 20.0,
        "empty": 0.0,
    }
    assert totals("") == {}
