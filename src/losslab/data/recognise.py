"""The layout of a data set, by the names and the shape of its columns.

A layout is never guessed: the keys of `dataset` decide where they name existing columns; else exactly one
reading must be possible.
"""

from dataclasses import replace
from itertools import chain
from typing import Any

from losslab.config.schema import DatasetConfig
from losslab.data.images import looks_like_images
from losslab.data.layouts import ARGUMENTS, SYSTEM, TOOLS, Layout
from losslab.data.messages import is_text, looks_like_messages, transcript
from losslab.data.row_templates import check, names_in
from losslab.data.table import Table

PROMPTS = ("problem", "question", "query", "prompt", "instruction", "input")
ANSWERS = ("solution", "answer", "response", "completion", "output")
IMAGES = ("images", "image")
INPUTS = ("input", "context")  # what belongs to an instruction
DEFAULTS = DatasetConfig()
SAMPLE = 100  # rows whose shape decides


def recognise(dataset: DatasetConfig, table: Table) -> Layout:
    """The layout of a data set. Raises ValueError where no layout fits, or more than one."""
    columns = table.columns
    for key in (
        "messages_column",
        "rejected_column",
        "reward_column",
        "weights_column",
        "images_column",
        "gold_column",
    ):
        _check_column(dataset, key, columns)
    conversations = _conversation_columns(table)
    if dataset.rejected_column is not None:
        prompt, answers = _pairs(dataset, table, conversations)
    else:
        prompt, answers = _single(dataset, columns, conversations)
    templates = frozenset(source for source in (prompt, *answers) if source is not None and source not in columns)
    for template in templates:
        check(template, columns, dataset.path)
        if not names_in(template):
            raise ValueError(f"the template {template!r} fills in no column: write one as in {{{columns[0]}}}")
    rewards: tuple[str, ...] = ()
    if dataset.reward_column is not None:
        rewards = (dataset.reward_column,)
        if dataset.success_rate_column in columns or dataset.success_rate_column != DEFAULTS.success_rate_column:
            _check_column(dataset, "success_rate_column", columns)
            rewards = (*rewards, dataset.success_rate_column)
    layout = Layout(prompt, answers, templates, rewards, dataset.weights_column)
    system, tools, arguments = (
        name if name in columns and name not in layout.columns else None for name in (SYSTEM, TOOLS, ARGUMENTS)
    )
    images = dataset.images_column or _image_column(table, layout)
    layout = replace(layout, system=system, tools=tools, arguments=arguments, images=images)
    return replace(layout, unread=tuple(name for name in columns if name not in layout.columns))


def _single(dataset: DatasetConfig, columns: list[str], conversations: list[str]) -> tuple[str | None, tuple[str, ...]]:
    """Prompt and answer of rows with one answer, or the column of whole conversations."""
    if dataset.messages_column is not None:
        if dataset.prompt or dataset.answer:
            raise ValueError("dataset.messages_column holds whole conversations: leave dataset.prompt and answer out")
        return None, (dataset.messages_column,)
    prompt = dataset.prompt or _named(dataset, "prompt_column", columns)
    answer = dataset.answer or _named(dataset, "answer_column", columns)
    if prompt is not None and prompt == answer:
        if prompt not in conversations:
            raise ValueError(f"dataset.prompt_column and answer_column are both {prompt}: name two columns")
        return None, (prompt,)
    if prompt is not None and answer is not None:
        return prompt, (answer,)
    if "chosen" in columns and "rejected" in columns and answer is None:
        raise ValueError(
            f"{dataset.path} has pairs of answers: set dataset.rejected_column=rejected for an objective of pairs such "
            "as dpo, or dataset.answer_column=chosen to train the chosen ones alone"
        )
    readings = _readings(prompt, answer, columns, conversations)
    if not readings and not _is_set(dataset):
        readings = [(None, (name,)) for name in conversations]
    if len(readings) == 1:
        return readings[0]
    if readings:
        shown = " or ".join(str(Layout(*reading)) for reading in readings)
        raise ValueError(
            f"{dataset.path} can be read as {shown}: set dataset.messages_column, or dataset.prompt_column and "
            "dataset.answer_column"
        )
    lacks = "prompts" if answer else "answers" if prompt else "conversations, or questions and answers"
    raise ValueError(
        f"{dataset.path} has the columns {', '.join(columns)}, of which none is known to hold {lacks}: set "
        "dataset.messages_column, or dataset.prompt_column and dataset.answer_column"
    )


def _readings(
    prompt: str | None, answer: str | None, columns: list[str], conversations: list[str]
) -> list[tuple[str | None, tuple[str, ...]]]:
    """The ways to read the columns, where a prompt or an answer is not named."""
    prompts = [prompt] if prompt else [name for name in PROMPTS if name in columns and name != answer]
    answers = [answer] if answer else [name for name in ANSWERS if name in columns and name != prompt]
    whole = [name for name in conversations if name not in (*prompts, *answers)]
    inputs = [name for name in INPUTS if name in columns]
    if prompt is None and "instruction" in prompts and len(inputs) == 1:
        prompts = [f"{{instruction}}\n{{{inputs[0]}}}", *(p for p in prompts if p not in ("instruction", *inputs))]
    elif prompt is None and "context" in columns:
        prompts = [*prompts, *(f"{{context}}\n{{{name}}}" for name in prompts)]
    pairs: list[tuple[str | None, tuple[str, ...]]] = [(p, (a,)) for p in prompts for a in answers]
    if prompt or answer:
        return pairs
    alone = [] if answers else [name for name in prompts if name in conversations]  # UltraChat's `prompt` is a text
    return pairs + [(None, (name,)) for name in (*whole, *alone)]


def _pairs(dataset: DatasetConfig, table: Table, conversations: list[str]) -> tuple[str | None, tuple[str, ...]]:
    """Prompt, chosen and rejected answers; no prompt where conversations hold it."""
    columns, rejected = table.columns, str(dataset.rejected_column)
    if dataset.messages_column is not None:
        raise ValueError("dataset.messages_column holds whole conversations, not pairs: set dataset.answer_column")
    chosen = dataset.answer or _named(dataset, "answer_column", columns) or ("chosen" if "chosen" in columns else None)
    if chosen is None:
        raise ValueError(f"{dataset.path} has no column of chosen answers but {columns}: set dataset.answer_column")
    if chosen == rejected:
        raise ValueError(f"dataset.answer_column and rejected_column are both {chosen}: name two columns")
    prompt = dataset.prompt or _named(dataset, "prompt_column", columns)
    if prompt is not None:
        return prompt, (chosen, rejected)
    prompts = [name for name in PROMPTS if name in columns and name not in (chosen, rejected)]
    if len(prompts) > 1:
        raise ValueError(f"{dataset.path} has the columns {' and '.join(prompts)}: set dataset.prompt_column to one")
    if prompts:
        return prompts[0], (chosen, rejected)
    texts = [row.get(chosen) for row in table.head(1)]
    if chosen not in conversations and not all(isinstance(text, str) and transcript(text) for text in texts):
        raise ValueError(f"{dataset.path} has no column of prompts but {columns}: set dataset.prompt_column")
    return None, (chosen, rejected)


def _is_set(dataset: DatasetConfig) -> bool:
    """Whether a key names the prompt or the answer."""
    keys = ("prompt", "answer", "prompt_column", "answer_column")
    return any(getattr(dataset, key) != getattr(DEFAULTS, key) for key in keys)


def _named(dataset: DatasetConfig, key: str, columns: list[str]) -> str | None:
    """The column that a key names; None where it has its default, and there is no such column."""
    column = getattr(dataset, key)
    if column in columns:
        return column
    if column == getattr(DEFAULTS, key):
        return None
    _check_column(dataset, key, columns)
    raise AssertionError


def _check_column(dataset: DatasetConfig, key: str, columns: list[str]) -> None:
    column = getattr(dataset, key)
    if column is not None and column not in columns:
        raise ValueError(f"{dataset.path} has no column {column!r} but {columns}: set dataset.{key}")


def _image_column(table: Table, layout: Layout) -> str | None:
    """The column whose first value is an image, by its name and the value's shape.

    Raises ValueError where there are two, and for texts of which it is not known whether they are images.
    """
    names = [name for name in IMAGES if name in table.columns and name not in layout.columns]
    values = {name: _first(table, name) for name in names}
    holding = [name for name in names if looks_like_images(values[name])]
    if len(holding) > 1:
        raise ValueError(f"{table.path} has images in {' and '.join(holding)}: set dataset.images_column to one")
    if holding:
        return holding[0]
    for name, value in values.items():
        if is_text(value):
            raise ValueError(
                f"{table.path} has texts in `{name}` that do not look like images ({value[:40]!r}): set "
                f"dataset.images_column={name} if they are, else rename the column"
            )
    return None


def _first(table: Table, name: str) -> Any:
    """The first value of a column that is not empty, of a list its first item; None where all are."""
    for row in chain(table.head(SAMPLE), table.rows([name])):  # few at once where they are there from the start
        value = row.get(name)
        value = value[0] if isinstance(value, list) and value else value
        if is_text(value) if isinstance(value, str) else value:
            return value
    return None


def _conversation_columns(table: Table) -> list[str]:
    """The columns whose first values are conversations."""
    sample = table.head(SAMPLE)
    values = {name: [row[name] for row in sample if row.get(name)] for name in table.columns}
    return [name for name, some in values.items() if some and looks_like_messages(some[0])]
