"""Which benchmarks of code can be run on this machine."""

from collections.abc import Sequence

from losslab.config.choices import Rules
from losslab.config.log import log
from losslab.evaluation.benchmarks import Benchmark
from losslab.programs.assembly import language
from losslab.programs.languages import without
from losslab.programs.sandbox import check_runnable


def runnable(chosen: Sequence[Benchmark], unsafe_code: bool) -> list[Benchmark]:
    """The benchmarks, except those of a language that has no compiler here: a message names each, and none is scored 0.

    Raises:
        ValueError: this machine cannot isolate or limit a process, or no benchmark is left.
    """
    code = [benchmark for benchmark in chosen if benchmark.rules == Rules.code]
    if code:
        check_runnable(unsafe_code)
    lacking = {benchmark.name: _lacking(benchmark) for benchmark in code}
    skipped = [f"benchmark {name} is skipped: {sentence}" for name, sentence in lacking.items() if sentence]
    if len(skipped) == len(chosen):
        raise ValueError("; ".join(skipped))
    for sentence in skipped:
        log.warning(sentence)
    return [benchmark for benchmark in chosen if not lacking.get(benchmark.name)]


def _lacking(benchmark: Benchmark) -> str:
    """What is missing to run the languages of its problems; empty where nothing is."""
    kinds = sorted({language(problem.gold) for problem in benchmark.problems})
    return "; ".join(sentence for kind in kinds if (sentence := without(kind)))
