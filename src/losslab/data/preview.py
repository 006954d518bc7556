"""Statistics of a data set before training: lengths, turns, duplicates, and rows that are left out."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

import numpy as np

from losslab.data.examples import Collected
from losslab.data.images import shortened
from losslab.data.rows import Rows
from losslab.data.stored_images import digest

BINS = 10  # of a histogram, at most
SHARE = 0.995  # of the values that the bins cover; the last bin holds the rest


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of an example that are all trained, or all untrained."""

    text: str
    ids: list[int]
    trained: bool


@dataclass(frozen=True)
class Example:
    """One example as the model will see it."""

    title: str  # where its row stands, and which answer of a pair it has
    number: int  # of its row
    segments: list[Segment]

    @property
    def tokens(self) -> int:
        return sum(len(segment.ids) for segment in self.segments)

    @property
    def trained(self) -> int:
        """Its trained tokens."""
        return sum(len(segment.ids) for segment in self.segments if segment.trained)


@dataclass(frozen=True)
class Bin:
    start: int
    stop: int | None  # behind the last value; None for all from `start` on
    count: int


def example(rows: Rows, collected: Collected, i: int, tokenizer: Any) -> Example:
    """Example i of those that were collected from these rows."""
    number = collected.numbers[i]
    which = f", {('chosen', 'rejected')[i % 2]}" if len(rows.layout.answers) == 2 else ""
    return Example(f"{rows.table.place(number)}{which}", number, _segments(collected, i, tokenizer))


def _segments(collected: Collected, i: int, tokenizer: Any) -> list[Segment]:
    ids = collected.tokens[i].tolist()
    borders = [0, *(border for span in collected.spans[i] for border in span), len(ids)]
    parts = zip(borders, borders[1:], strict=False)
    return [
        Segment(shortened(tokenizer.decode(ids[start:stop])), ids[start:stop], bool(number % 2))
        for number, (start, stop) in enumerate(parts)
        if start < stop
    ]


def turns(collected: Collected) -> list[int]:
    """The trained turns of each example."""
    return [len(spans) for spans in collected.spans]


def repeated(collected: Collected) -> tuple[int, int]:
    """How many examples duplicate another one token for token, and how many share their prompt with another.

    Examples with images are alike only where these are too.
    """
    examples = list(zip(collected.tokens, collected.spans, map(digest, collected.images), strict=True))
    whole = {ids.tobytes() + images for ids, _, images in examples}
    prompts = [ids[: spans[0][0]].tobytes() + images for ids, spans, images in examples]
    counts = Counter(prompts)
    return len(examples) - len(whole), sum(counts[prompt] > 1 for prompt in prompts)


def left_out(rows: Rows, collected: Collected) -> list[tuple[str, list[str]]]:
    """The reasons why rows are left out, most frequent first, with the places of the rows."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for number, reason in sorted(collected.broken.items()):
        places[reason].append(rows.table.place(number))
    for number, _ in collected.overlong:
        places[f"is longer than train.max_length={collected.limit}"].append(rows.table.place(number))
    return sorted(places.items(), key=lambda item: -len(item[1]))


def histogram(values: Sequence[int]) -> list[Bin]:
    """Counts of whole numbers in about ten bins of round width; the last bin also holds a long tail."""
    array = np.asarray(values)
    low, high = int(array.min()), int(np.quantile(array, SHARE, method="higher"))
    width = _round_up(max(1, ceil((high - low + 1) / BINS)))
    start = floor(low / width) * width
    edges = list(range(start, high + width, width))
    if edges[-1] <= high:
        edges.append(edges[-1] + width)
    counts = [int(((array >= a) & (array < b)).sum()) for a, b in zip(edges, edges[1:], strict=False)]
    bins = [Bin(a, b, count) for a, b, count in zip(edges, edges[1:], counts, strict=False)]
    rest = int((array >= edges[-1]).sum())
    return [*bins, Bin(edges[-1], None, rest)] if rest else bins


def _round_up(width: int) -> int:
    """The next of 1, 2, 5, 10, 20, 50, ..."""
    power = 10 ** floor(log10(width))
    return next(int(step * power) for step in (1, 2, 5, 10) if step * power >= width)
