"""``make mutants``: draw mutations by a seed, run the tests of each, print what went unnoticed."""

from __future__ import annotations

import argparse
import difflib
import queue
import random
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.goals import Goal, print_goals
from tools.mutants.coverage_map import BUDGET_S, CoverageMap, measure
from tools.mutants.mutations import mutations
from tools.mutants.targets import GROUPS, group_files
from tools.mutants.trial import Bench, Mutant, Result

ROOT = Path(__file__).resolve().parents[2]
REQUIRED = 0.9


def main() -> None:
    """Print a line per mutant that no test noticed, a table by group, and the score."""
    options = _options()
    drawn = _draw(options.groups or list(GROUPS), number=options.number, seed=options.seed)
    known = measure(ROOT, ROOT / ".venv" / "mutants", workers=options.workers)
    with tempfile.TemporaryDirectory(prefix="modelium-mutants-") as place:
        results = _attempt(drawn, known, Path(place), options)
    _print_survivors(drawn, results)
    _print_table(drawn, results)
    score = sum(result == "noticed" for result in results) / max(1, len(results))
    print_goals(Goal(name="mutants-noticed", measured=score, relation="≥", required=REQUIRED))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument(
        "groups", nargs="*", metavar="GROUP", help=f"{', '.join(GROUPS)}, or a file"
    )
    parser.add_argument("--number", type=int, default=330, help="of mutants (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="other mutants with another one")
    parser.add_argument("--workers", type=int, default=2, help="tried at once")
    parser.add_argument(
        "--budget",
        type=float,
        default=BUDGET_S,
        metavar="SECONDS",
        help="of tests per mutant, as measured with coverage (default: %(default)s)",
    )
    options = parser.parse_args()
    if unknown := {g for g in set(options.groups) - set(GROUPS) if not (ROOT / g).is_file()}:
        parser.error(f"no such group: {', '.join(sorted(unknown))}; one of {', '.join(GROUPS)}")
    return options


def _draw(groups: Sequence[str], *, number: int, seed: int) -> list[Mutant]:
    """Draw the same number from each group, so that a large one does not hide a small one."""
    files = group_files(ROOT) | {group: [Path(group)] for group in groups if group not in GROUPS}
    drawn = []
    for index, group in enumerate(groups):
        found = [
            Mutant(group=group, path=path, mutation=mutation)
            for path in files[group]
            for mutation in mutations((ROOT / path).read_bytes())
        ]
        share = number // len(groups) + (index < number % len(groups))
        drawn += random.Random(f"{seed} {group}").sample(found, min(share, len(found)))  # noqa: S311
    return drawn


def _attempt(
    drawn: Sequence[Mutant], known: CoverageMap, place: Path, options: argparse.Namespace
) -> list[Result]:
    benches: queue.Queue[Bench] = queue.Queue()
    made = [Bench(root=ROOT, place=place / str(number)) for number in range(options.workers)]
    for bench in made:
        benches.put(bench)

    def attempt(mutant: Mutant) -> Result:
        bench = benches.get()
        try:
            result = bench.attempt(
                mutant, known.tests(mutant.path, mutant.mutation.line, budget_s=options.budget)
            )
        finally:
            benches.put(bench)
        print(f"{result:9} {mutant}", flush=True)
        return result

    try:
        with ThreadPoolExecutor(options.workers) as pool:
            return list(pool.map(attempt, drawn))
    finally:
        for bench in made:
            bench.end()


def _print_survivors(drawn: Sequence[Mutant], results: Sequence[Result]) -> None:
    for mutant, result in zip(drawn, results, strict=True):
        if result != "noticed":
            source = (ROOT / mutant.path).read_bytes()
            before = source.decode().splitlines()
            after = mutant.mutation.apply(source).decode().splitlines()
            print(f"\n{result}: {mutant}")
            for line in list(difflib.unified_diff(before, after, lineterm="", n=1))[2:]:
                print(f"    {line}")


def _print_table(drawn: Sequence[Mutant], results: Sequence[Result]) -> None:
    groups = dict.fromkeys(mutant.group for mutant in drawn)
    width = max(12, *(len(group) + 1 for group in groups))
    print(f"\n{'group':{width}}{'mutants':>8}{'noticed':>9}{'not run':>9}{'score':>8}")
    for group in groups:
        own = [r for m, r in zip(drawn, results, strict=True) if m.group == group]
        noticed = own.count("noticed")
        score = noticed / len(own) if own else 0.0
        print(f"{group:{width}}{len(own):8}{noticed:9}{own.count('not run'):9}{score:8.0%}")
    print()


if __name__ == "__main__":
    main()
