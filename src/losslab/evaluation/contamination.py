"""Finds benchmark problems in the training rows: the same question, or thirteen consecutive words of it.

Thirteen is the length of Brown et al. 2020 (arXiv 2005.14165, appendix C). Only the questions are held in memory; the
rows are streamed once, and the result is cached by content.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from losslab.evaluation.benchmarks import Benchmark
from losslab.files.json_files import read_json, write_json

UNSEARCHED = "the training data could not be searched for benchmark problems"  # a warning; its reason follows
NO_QUESTION = "the training data was not searched, since the task does not say which column holds its question"
LENGTH = 13  # consecutive words
CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # no spaces stand between words of these
WORD = re.compile(rf"[{CJK}]|[^\W{CJK}]+")  # \frac{1}{2} is three of them

Seen = dict[str, list[int]]  # indices of problems, by `exact` and by `words`
Gram = tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """The rows that a model was trained on."""

    key: str  # a hash that changes with the rows
    rows: Callable[[], Iterable[Sequence[Any]]]  # the texts of each row: the question first, then its answers


def seen(corpus: Corpus, chosen: Sequence[Benchmark], cache: Path) -> dict[str, Seen]:
    """The problems of each benchmark that the corpus contains; the corpus is read once for all that `cache` lacks.

    Benchmarks with images are skipped: the same question may be asked about any image. So are tasks of which no column
    is known to hold the question. Errors are those of reading the corpus.
    """
    texts = {b.name: b.questions for b in chosen if b.questions is not None}
    files = {b.name: cache / f"{_key(corpus, b)}.json" for b in chosen if b.name in texts}
    missing = {name: questions for name, questions in texts.items() if not files[name].exists()}
    if missing:
        for name, seen in search(corpus.rows(), missing).items():
            write_json(files[name], seen)
    return {name: read_json(file) for name, file in files.items()}


def search(rows: Iterable[Sequence[Any]], questions: Mapping[str, Sequence[str]]) -> dict[str, Seen]:
    """The questions of each benchmark that rows of texts contain.

    `exact`: the first text of a row equals the question, up to case and spaces. `words`: a text of the row contains
    thirteen consecutive words of the question, up to case and punctuation.
    """
    whole: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    grams: defaultdict[Gram, list[tuple[str, int]]] = defaultdict(list)
    for name, texts in questions.items():
        for index, text in enumerate(texts):
            whole[_letters(text)].append((name, index))
            for gram in _grams(text):
                grams[gram].append((name, index))
    matches: dict[str, set[tuple[str, int]]] = {"exact": set(), "words": set()}
    for row in rows:
        texts = ["" if not isinstance(text, str) else text for text in row]  # the texts of an unusable row count too
        matches["exact"].update(whole.get(_letters(texts[0]), ()))
        for text in texts:
            for gram in filter(grams.__contains__, _grams(text)):
                matches["words"].update(grams[gram])
    return {
        name: {kind: sorted(index for other, index in places if other == name) for kind, places in matches.items()}
        for name in questions
    }


def _letters(text: str) -> str:
    return "".join(text.casefold().split())


def _grams(text: str) -> Iterator[Gram]:
    words = WORD.findall(text.casefold())
    return zip(*(islice(words, start, None) for start in range(LENGTH)), strict=False)


def _key(corpus: Corpus, benchmark: Benchmark) -> str:
    about: list[Any] = [corpus.key, benchmark.sha256, LENGTH, WORD.pattern]
    if benchmark.task is not None:  # whose hash is of prompts
        about.append(benchmark.questions)
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
