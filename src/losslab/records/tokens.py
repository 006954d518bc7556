"""Reads a cell's tokens.json: examples token by token, as `losslab.training.token_view` wrote them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from losslab.files.record_names import TOKENS
from losslab.records.reading import DamagedRecord, check_form, read_facts

NUMBERS = {"p": [(int, float)], "weight": [(int, float)]}
EXAMPLE = {"number": int, "tokens": [str], "trained": [int], "before": NUMBERS, "after": NUMBERS}


@dataclass(frozen=True)
class Token:
    """The text of a token and, if it is trained, its probability and its weight."""

    text: str
    trained: bool
    before: float = 0.0  # its probability before training
    after: float = 0.0
    weight: float = 0.0  # -dloss/dlogp after training

    @property
    def change(self) -> float:
        return self.after - self.before


@dataclass(frozen=True)
class ShownExample:
    number: int  # of the example among the trained ones, from 1
    of: int  # number of trained examples
    tokens: list[Token]

    @property
    def heaviest(self) -> float:
        """The largest absolute weight; 1 without weights."""
        return max((abs(token.weight) for token in self.tokens), default=0.0) or 1.0


def read_examples(folder: Path) -> list[ShownExample]:
    """The examples of a cell whose training is complete, else an empty list. Raises DamagedRecord."""
    path = folder / TOKENS
    content = read_facts(path, {"of": int, "examples": [dict]})
    shown = []
    for example in content.get("examples", []):
        if "after" not in example:
            return []
        _check(path, example)
        shown.append(ShownExample(example["number"], content.get("of", 0), [*_tokens(example)]))
    return shown


def _check(path: Path, example: dict[str, Any]) -> None:
    check_form(path, example, EXAMPLE, where="examples")
    trained = sum(map(bool, example["trained"]))
    sizes = {len(example[when][key]) for when in ("before", "after") for key in NUMBERS}
    if len(example["tokens"]) != len(example["trained"]) or sizes != {trained}:
        raise DamagedRecord(path, "its tokens and numbers do not match")


def _tokens(example: dict[str, Any]) -> Iterator[Token]:
    numbers = zip(example["before"]["p"], example["after"]["p"], example["after"]["weight"], strict=True)
    for text, trained in zip(example["tokens"], example["trained"], strict=True):
        yield Token(text, True, *next(numbers)) if trained else Token(text, False)
