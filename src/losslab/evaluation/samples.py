"""The samples of a folder: each is written to disk and submitted to the grader as soon as it is finished."""

import json
from collections.abc import Sequence
from concurrent.futures import Future, as_completed
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from losslab.config.choices import Rules
from losslab.config.log import log
from losslab.config.masking import masked
from losslab.evaluation.benchmarks import Benchmark
from losslab.evaluation.engine_interface import Completion
from losslab.files.json_files import mend, read_lines
from losslab.grading.graders import Grader, Verdict
from losslab.grading.version import grader_version
from losslab.progress import bar

Key = tuple[str, int, int]  # benchmark, problem, sample
Sample = dict[str, Any]


class Samples:
    """The samples of a folder, stored ones and new ones."""

    def __init__(self, folder: Path, chosen: Sequence[Benchmark], grader: Grader) -> None:
        self.folder = folder
        self.grader = grader
        self._rules = {benchmark.name: benchmark.rules for benchmark in chosen}
        self.problems = {(b.name, p.index): p for b in chosen for p in b.problems}
        self.known: dict[Key, Sample] = {}
        self._verdicts: dict[Key, Future[Verdict]] = {}
        for benchmark in chosen:
            mend(folder / f"{benchmark.name}.samples.jsonl")
            self.known |= _stored(folder, benchmark)
        for key, sample in self.known.items():
            if key[:2] in self.problems and "official" not in sample:
                self._grade(key)
        self._files = {
            benchmark.name: (folder / f"{benchmark.name}.samples.jsonl").open("a", encoding="utf-8")
            for benchmark in chosen
        }

    def __enter__(self) -> "Samples":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()

    def add(self, key: Key, completion: Completion, seed: int | None) -> None:
        text, tokens, reason = _whole(completion.text), completion.tokens, completion.finish_reason
        more = {"end_token": completion.end_token}
        more |= {} if completion.prompt_tokens is None else {"prompt_tokens": completion.prompt_tokens}
        self.keep(key, {"text": text, "finish_reason": reason, "tokens": tokens, "seed": seed, **more})
        self._grade(key)

    def keep(self, key: Key, sample: Sample) -> None:
        """Store a sample without grading it: its verdict is given already, or comes later."""
        self.known[key] = sample
        row = {"index": key[1], "sample": key[2], **sample}
        self._files[key[0]].write(masked(json.dumps(row, ensure_ascii=False) + "\n"))
        self._files[key[0]].flush()

    def _grade(self, key: Key) -> None:
        problem, text = self.problems[key[:2]], self.known[key]["text"]
        rules = self._rules[key[0]]
        self._verdicts[key] = self.grader.submit(rules, text, problem.gold_official, problem.gold)

    def finish(self) -> None:
        """Wait for the remaining verdicts and add them to the samples."""
        waiting = {verdict for verdict in self._verdicts.values() if not verdict.done()}  # equal answers share one
        with bar("grading", len(waiting), "answer", disable=not waiting) as progress:
            for _ in as_completed(waiting):
                progress.update()
        for key, verdict in self._verdicts.items():
            self.known[key] |= asdict(verdict.result())

    def beyond(self, name: str) -> list[Sample]:
        """The samples of a benchmark that `of` does not reach, as lines of its `.samples.jsonl`, without verdicts."""
        reached = {index: len(self.of(name, index)) for benchmark, index in self.problems if benchmark == name}
        return [
            {"index": index, "sample": j, **{k: v for k, v in sample.items() if k not in Verdict.__dataclass_fields__}}
            for (benchmark, index, j), sample in self.known.items()
            if benchmark == name and j >= reached.get(index, 0)
        ]

    def of(self, name: str, index: int) -> list[Sample]:
        samples: list[Sample] = []
        while (key := (name, index, len(samples))) in self.known:
            samples.append(self.known[key])
        return samples


def _whole(text: str) -> str:
    """The text with � for each half of a surrogate pair, which some endpoints send and no file in UTF-8 can hold."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _stored(folder: Path, benchmark: Benchmark) -> dict[Key, Sample]:
    """The stored samples of a benchmark: graded ones of an earlier run, and those of an interrupted run.

    Verdicts of another version of the grader are left out, so that a score never mixes two, and those that ran out of
    time, for which there may be more now, but not programs, whose limits are the protocol's; those of a task of lm_eval
    are the library's own.
    """
    stored: dict[Key, Sample] = {}
    name, records = benchmark.name, read_lines(folder / f"{benchmark.name}.jsonl")
    graders = {record.get("grader") for record in records} if benchmark.task is None else set()
    if again := bool(graders - {grader_version()}):
        which = "an unknown" if None in graders else "another"
        log.info(f"{name}: {which} version of the grader graded the stored samples; all are graded again")
    for record in records:
        for j, sample in enumerate(record["samples"]):
            kept = {key: value for key, value in sample.items() if key not in Verdict.__dataclass_fields__}
            late = sample["timed_out"] and benchmark.rules != Rules.code
            stored[name, record["index"], j] = kept if again or late else sample
    for line in read_lines(folder / f"{name}.samples.jsonl"):
        stored[name, line.pop("index"), line.pop("sample")] = line
    return stored
