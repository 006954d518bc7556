"""A third verdict, by a model as judge, on the samples of which the official and the corrected verdict differ; on all
samples of a benchmark whose published evaluation asks a model.

The judge reads the end of a response, since how an answer is given counts too: it has to be the only one. So responses
with the same answer in other words are asked about one by one, and those that end in the same words once.

It decides no score of scores.json. What a folder of scores holds afterwards:
    judge.jsonl    a line for each different prompt: benchmark, problem, the judge's reply and its verdict
    judge.json     how often the judge agrees with either verdict, its own score of benchmarks that were judged whole,
                   what it was asked with, tokens and dollars
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from losslab.evaluation import api_engine
from losslab.evaluation.engine_interface import Endpoint, Job, Request, Sampling
from losslab.evaluation.scores import cost, share
from losslab.files.json_files import append_line, mend, read_json, read_lines, write_json
from losslab.progress import bar

LINES, SUMMARY = "judge.jsonl", "judge.json"
SHOWN = 2000  # characters of a response, from its end, where the answer is
MOST_TOKENS = 2048  # of a reply, with the judge's reasoning
WORD = re.compile(r"\b(RIGHT|WRONG)\b")
PROMPT = """A student answered a question. Judge the final answer alone, not the way to it.

Question:
{question}

Reference answer:
{gold}

End of the student's response:
{response}

Is the student's final answer mathematically the same as the reference answer, and the only one that is given? Think \
briefly, then end with one word: RIGHT or WRONG."""


@dataclass(frozen=True)
class Judged:
    """An answer to a problem on which the two verdicts differ, or of a benchmark that is judged whole."""

    benchmark: str
    index: int
    official: bool
    corrected: bool
    prompt: str
    whole: bool
    groups: dict[str, str]  # of the benchmark's breakdown

    @property
    def disputed(self) -> bool:
        return self.official != self.corrected


def judged(folder: Path) -> Iterator[Judged]:
    """The samples of a folder of scores that count there and that a judge is to see.

    Raises ValueError where the folder holds no scores, or no samples of a benchmark.
    """
    scores = read_json(folder / "scores.json")
    if not scores:
        raise ValueError(f"{folder} holds no scores.json: name a folder of results/cells/CELL/scores")
    for name, part in scores["benchmarks"].items():
        records = read_lines(folder / f"{name}.jsonl")
        whole = part.get("judged", False)
        if not records and (whole or part["only_official"] + part["only_corrected"]):
            raise ValueError(f"{folder} has no samples of {name}: copy {name}.jsonl there, or score it again")
        for record in records:
            for sample in record["samples"][: part["samples"]]:
                if whole or sample["official"] != sample["corrected"]:
                    end = sample["text"][-SHOWN:]
                    prompt = PROMPT.format(question=record["question"], gold=record["gold"], response=end)
                    verdicts = sample["official"], sample["corrected"]
                    groups = record.get("groups", {})
                    yield Judged(name, record["index"], *verdicts, prompt, whole, groups)


def judge(folder: Path, endpoint: Endpoint, prices: Sequence[float] = ()) -> dict[str, Any]:
    """Ask the judge about each different prompt that it has not judged yet; returns what judge.json holds.

    `prices` are dollars for a million tokens of prompts and of replies. Raises ValueError as `judged` does, and where
    the folder has replies of another judge, and RuntimeError if the endpoint fails; the same call then continues.
    """
    samples = list(judged(folder))
    mend(folder / LINES)
    replies = {line["prompt"]: line for line in read_lines(folder / LINES)}
    if others := {line["judge"] for line in replies.values()} - {endpoint.model}:
        raise ValueError(f"{folder / LINES} has replies of {', '.join(sorted(others))}: remove it, or name that judge")
    missing = list({sample.prompt: sample for sample in samples if sample.prompt not in replies}.values())
    requests = [Request(i, [], 0, text=sample.prompt, chat=True) for i, sample in enumerate(missing)]
    job = Job(endpoint.model, Sampling(0.0, 1.0, MOST_TOKENS), endpoint=endpoint)
    with bar("judging", len(missing), "answer") as progress:
        for completions in api_engine.run(job, requests, False) if missing else ():
            for reply in completions:
                sample = missing[reply.key]
                line = {"benchmark": sample.benchmark, "index": sample.index, "judge": endpoint.model}
                whole = reply.finish_reason != "length"  # a part may quote the words of the question
                line |= {"right": verdict(reply.text) if whole else None, "reply": reply.text, "prompt": sample.prompt}
                line |= {"prompt_tokens": reply.prompt_tokens, "tokens": reply.tokens}
                append_line(folder / LINES, line)
                replies[sample.prompt] = line
            progress.update(len(completions))
    result = {"judge": endpoint.model, "endpoint": endpoint.url, **_counts(samples, replies)}
    result |= {"scores": scores(samples, replies), "answers": len(replies)}
    result |= cost(replies.values(), prices)
    write_json(folder / SUMMARY, result)
    return result


def verdict(reply: str) -> bool | None:
    """The last word of a judge's reply, behind its thoughts, that is RIGHT or WRONG; None where there is none."""
    words = WORD.findall(reply.rpartition("</think>")[2])
    return words[-1] == "RIGHT" if words else None


def _counts(samples: Sequence[Judged], replies: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """For each benchmark, its disputed samples by whom the judge agrees with."""
    counts: dict[str, Counter[str]] = {}
    for sample in filter(lambda sample: sample.disputed, samples):
        right = replies[sample.prompt]["right"]
        side = "undecided" if right is None else "agrees_official" if right == sample.official else "agrees_corrected"
        counts.setdefault(sample.benchmark, Counter(disputed=0, agrees_official=0, agrees_corrected=0, undecided=0))
        counts[sample.benchmark].update(["disputed", side])
    return {"benchmarks": {name: dict(count) for name, count in counts.items()}}


def scores(samples: Sequence[Judged], replies: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The judge's own score in percent of each benchmark that it judges whole; what it leaves undecided is wrong."""
    parts: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(sample.benchmark for sample in samples if sample.whole):
        verdicts = [(replies[s.prompt]["right"], s.groups) for s in samples if s.benchmark == name]
        groups: dict[str, dict[str, list[bool]]] = {}
        for right, of_sample in verdicts:
            for column, value in of_sample.items():
                groups.setdefault(column, {}).setdefault(value, []).append(bool(right))
        parts[name] = {
            "samples": len(verdicts),
            "undecided": sum(right is None for right, _ in verdicts),
            "score": share(bool(right) for right, _ in verdicts),
            "breakdown": {column: {key: share(of) for key, of in values.items()} for column, values in groups.items()},
        }
    return parts
