"""Runs the cases and writes how they ended.

python -m hostile [cases=1000] [kind=record] [show=20]      in tests/, or `make hostile`
"""

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from hostile import cases as collection
from hostile import runner
from hostile.case import OUTCOMES, Case, Verdict

REPORT = Path(__file__).parents[2] / "results/benchmarks/hostile.md"


def main() -> None:
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    count, kind, show = int(options.get("cases", 1000)), options.get("kind"), int(options.get("show", 20))
    runner.preload()
    counts, bad, began = Counter[tuple[str, str]](), list[tuple[Case, Verdict]](), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="losslab-hostile-") as name:
        for case, verdict in runner.run_all(collection.of(count, Path(name), kind), Path(name) / "cases"):
            counts[case.kind, verdict.outcome] += 1
            if not verdict.good:
                bad.append((case, verdict))
                if len(bad) <= show:
                    print(f"{verdict.outcome}: {case.kind}: {case.title}\n    {verdict.reason}", flush=True)
    table = report(counts)
    print(table)
    if kind is None and count >= 1000:
        minutes = (time.monotonic() - began) / 60
        REPORT.write_text(
            f"# Bad inputs and signals\n\n{sum(counts.values()):,} cases in {minutes:.0f} minutes; what the outcomes "
            f"mean: tests/hostile/case.py.\n\n{table}\n`make hostile`\n"
        )
    sys.exit(bool(bad))


def report(counts: Counter[tuple[str, str]]) -> str:
    """A row for each kind, a column for each outcome."""
    kinds = list(dict.fromkeys(kind for kind, _ in counts))
    lines = ["| kind | cases | " + " | ".join(OUTCOMES) + " |", "|---|" + "---:|" * (len(OUTCOMES) + 1)]
    for kind in [*kinds, "all"]:
        row = [sum(n for (k, o), n in counts.items() if o == outcome and kind in (k, "all")) for outcome in OUTCOMES]
        lines.append(f"| {kind} | {sum(row)} | " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
