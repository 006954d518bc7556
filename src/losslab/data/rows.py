"""A data set as rows that can be trained, with what was left out and why."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from losslab.config.choices import Turns
from losslab.config.schema import DatasetConfig
from losslab.data.kinds_of_rows import Conversation, Row
from losslab.data.layouts import Layout, right_answers
from losslab.data.messages import Unusable
from losslab.data.recognise import recognise
from losslab.data.table import Table, load

NAMED = 10  # places that a message names


@dataclass(frozen=True)
class Rows:
    """The rows of a data set by their numbers in the whole, from 1, and why others cannot be used."""

    table: Table
    layout: Layout
    usable: dict[int, Row]
    broken: dict[int, str]

    def __len__(self) -> int:
        return len(self.usable) + len(self.broken)


def read(dataset: DatasetConfig, held_out: bool = False) -> Rows:
    """The rows of a data set that are trained, or those that are held out.

    Raises ValueError when it cannot be read, or not in one way alone.
    """
    table = load(dataset, held_out)
    layout = recognise(dataset, table)
    usable: dict[int, Row] = {}
    broken: dict[int, str] = {}
    for number, raw in zip(table.numbers.tolist(), table.rows(layout.columns), strict=True):
        try:
            usable[number] = layout.row(
                raw, Path(dataset.image_folder) if dataset.image_folder else table.folder(number)
            )
        except Unusable as reason:
            broken[number] = str(reason)
    return Rows(table, layout, usable, broken)


def texts(dataset: DatasetConfig) -> Iterator[list[str]]:
    """The texts of each usable row, its question first."""
    return (row.texts() for row in read(dataset).usable.values())


def asked(dataset: DatasetConfig) -> Iterator[tuple[str | None, Any]]:
    """The question of each row and what its gold answer is read from: `gold_column`, else the answer's text.

    Where a row has several right answers it is their list. None stands for a question that cannot be asked by itself,
    as after earlier turns, and for what is not there.
    Raises ValueError for questions about images, which would be asked without them.
    """
    table = load(dataset)
    layout = recognise(dataset, table)
    if layout.images:
        raise ValueError(
            f"{dataset.path} has images in `{layout.images}`, and what asks its questions asks them as texts: train on "
            "its answers, with an objective of demonstrations"
        )
    for raw in table.rows([*layout.columns, *([dataset.gold_column] if dataset.gold_column else [])]):
        try:
            if dataset.gold_column:
                gold = raw.get(dataset.gold_column)
            else:
                first = layout.answer(raw)
                gold = right_answers(raw.get(layout.answers[0])) or first
            yield layout.question(raw), gold
        except Unusable:
            yield None, None


def solutions(dataset: DatasetConfig) -> dict[str, str]:
    """The answer's text of each question, of one that is asked again its first."""
    table = load(dataset)
    layout = recognise(dataset, table)
    texts: dict[str, str] = {}
    for raw in table.rows(layout.columns):
        with suppress(Unusable):
            if question := layout.question(raw):
                texts.setdefault(question.strip(), layout.answer(raw))
    return texts


def check_broken(broken: Mapping[int, str], rows: int, dataset: DatasetConfig, place: Callable[[int], str]) -> None:
    """Raise ValueError when more than `dataset.max_broken` of the rows cannot be used, with where and why."""
    if len(broken) <= dataset.max_broken * rows:
        return
    reasons: defaultdict[str, list[str]] = defaultdict(list)
    for number, reason in broken.items():
        reasons[reason].append(place(number))
    several = max(reasons, key=lambda reason: len(reasons[reason]))
    shown = [f"{places[0]} {reason}" for reason, places in list(reasons.items())[:3]]
    others = ", ".join(reasons[several][1:NAMED])
    more = f"; so {'do' if len(reasons[several]) > 2 else 'does'} {others}" if others and len(reasons) == 1 else ""
    dots = ", …" if len(reasons[several]) > NAMED or len(reasons) > 3 else ""
    raise ValueError(
        f"{len(broken)} of {rows} rows of {dataset.path} cannot be used ({'; '.join(shown)}{more}{dots}): mend them or "
        "raise dataset.max_broken"
    )


def describe(rows: Rows, dataset: DatasetConfig) -> str:
    """How the rows are read and what of them is trained, in one line."""
    spoken = [row for row in rows.usable.values() if isinstance(row, Conversation)]
    if not spoken:
        return f"{rows.layout}; trained: the answer"
    counts = [_turns(row) for row in spoken]
    low, high = min(counts), max(counts)
    turns = f"of {low} to {high} turns" if low < high else f"of {low} turn{'s' * (low > 1)}"
    systems = sum(row.messages[0]["role"] in ("system", "developer") for row in spoken) / len(rows.usable)
    tools = sum(bool(row.tools) for row in spoken) / len(rows.usable)
    shares = [f"{share:.0%} with {what}" for share, what in ((systems, "a system prompt"), (tools, "tools")) if share]
    trained = {Turns.all: "every turn of the assistant", Turns.last: "the assistant's last turn"}.get(
        dataset.turns, "every turn of the assistant, each in an example of its own"
    )
    name = str(rows.layout)
    name = name.replace("conversations", f"conversations {turns}", 1) if rows.layout.prompt is None else name
    said = name if rows.layout.prompt is None else f"{name}, as conversations {turns}"
    return f"{', '.join([said, *shares])}; trained: {trained}"


def _turns(row: Conversation) -> int:
    """Turns of the assistant in a row's longest conversation."""
    answers = [[*row.prompt, *answer] for answer in row.answers]
    return max(sum(message["role"] == "assistant" for message in messages) for messages in answers)
