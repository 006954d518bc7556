"""From rows to token ids in flat arrays, made once and kept."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from losslab.config.choices import Overlong, Turns
from losslab.config.schema import TrainConfig
from losslab.data.chat_templates import Rewritten
from losslab.data.image_inputs import ImageInputs
from losslab.data.layouts import Layout
from losslab.data.messages import Unusable
from losslab.data.row_notes import notes
from losslab.data.rows import Rows, check_broken, read
from losslab.data.stored_images import StoredImages, digest
from losslab.data.table import held_out_file, image_folders
from losslab.data.tokenise import Encoded, Span, Tokeniser
from losslab.data.tokenizer_key import tokenizer_key
from losslab.files.content import content
from losslab.files.locks import cached
from losslab.progress import bar

CHUNK = 1000  # rows tokenised at once
VERSION = 6  # of how rows become tokens; cached tokens of an earlier version are not used
ARRAYS = ("tokens", "offsets", "prompts", "trained", "rewards", "weights", "rows")


@dataclass(frozen=True)
class Examples:
    """Examples in flat arrays: number i is `tokens[offsets[i]:offsets[i+1]]`, trained from `prompts[i]` on."""

    tokens: np.ndarray  # (sum of lengths,) int32
    offsets: np.ndarray  # (examples + 1,) int64
    prompts: np.ndarray  # (examples,) int64: tokens before the first that is trained, at least 1
    key: str  # SHA-256 of everything that decided the tokens
    report: dict[str, int]  # how many rows were read, broken, dropped, truncated
    notes: list[str] = field(default_factory=list)  # how they were read, and what may surprise about it
    unit: int = 1  # neighbours that stay together: 2 where each chosen answer is followed by the rejected one
    rewards: np.ndarray | None = None  # (examples, 2) float32: reward of the answer, success rate of its question
    weights: np.ndarray | None = None  # (all answer tokens,) float32, example by example, where the rows have them
    # (sum of lengths,) bool: the tokens that are trained; None where they are those from `prompts[i]` on.
    trained: np.ndarray | None = None
    rows: np.ndarray | None = None  # (examples,) int64: the number of each one's row in the data set, from 1
    ends: list[int] = field(default_factory=list)  # the special tokens that end trained spans, ascending
    images: StoredImages | None = None  # None where no row has one
    image_inputs: ImageInputs | None = None  # what reads them, in training

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @cached_property
    def answers(self) -> np.ndarray:
        """(examples,) number of answer tokens, which are those that are trained."""
        if self.trained is None:
            return self.lengths - self.prompts
        return np.add.reduceat(self.trained, self.offsets[:-1], dtype=np.int64)

    @cached_property
    def answer_offsets(self) -> np.ndarray:
        """(examples + 1,) where the answer tokens of each example lie among those of all, example by example."""
        return np.r_[0, self.answers.cumsum()]

    @property
    def units(self) -> np.ndarray:
        """(examples / unit,) tokens of each unit."""
        return self.lengths.reshape(-1, self.unit).sum(1)

    def expand(self, units: np.ndarray) -> np.ndarray:
        """The examples of some units, in order."""
        return (units[:, None] * self.unit + np.arange(self.unit)).reshape(-1)

    def is_trained(self, i: int) -> np.ndarray:
        """(length of example i,) bool: which of its tokens are trained."""
        if self.trained is not None:
            return self.trained[self.offsets[i] : self.offsets[i + 1]]
        return np.arange(self.offsets[i + 1] - self.offsets[i]) >= self.prompts[i]

    def targets(self, chosen: np.ndarray) -> np.ndarray:
        """(N,) ids of the trained tokens of some examples, in their order."""
        return np.concatenate([self.tokens[self.offsets[i] : self.offsets[i + 1]][self.is_trained(i)] for i in chosen])

    def content(self, i: int) -> tuple[bytes, bytes]:
        """Keys by which example i and its prompt are told apart from others: token ids, and the images, since two may
        have the same tokens."""
        ids = self.tokens[self.offsets[i] : self.offsets[i + 1]]
        images = b"" if self.images is None else digest(self.images.of_example(i))
        return ids.tobytes() + images, ids[: self.prompts[i]].tobytes() + images

    @classmethod
    def load(cls, folder: Path) -> "Examples":
        about = json.loads((folder / "about.json").read_text())
        arrays = {file.stem: np.load(file, mmap_mode="r") for file in folder.glob("*.npy")}
        return cls(**arrays, **about, images=StoredImages.load(folder))

    def save(self, folder: Path) -> None:
        """Write to a folder, which is created if missing."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ARRAYS:
            if (array := getattr(self, name)) is not None:
                np.save(folder / f"{name}.npy", array)
        about = {name: getattr(self, name) for name in ("key", "report", "notes", "ends", "unit")}
        (folder / "about.json").write_text(json.dumps(about))
        if self.images is not None:
            self.images.save(folder)


def prepare(tokeniser: Tokeniser, train: TrainConfig, cache: Path, held_out: bool = False) -> Path:
    """Tokenise the rows of a data set that are trained, or those that are held out, once, and keep them.

    Returns the folder of the `Examples`. Raises ValueError when the file, a column or too many rows are unusable, or an
    image has changed since it was kept.
    """
    model, dataset, tokenizer, images = tokeniser.model, tokeniser.dataset, tokeniser.tokenizer, tokeniser.images
    if elsewhere := held_out_file(dataset):  # a file of held-out rows is not trained on
        dataset = elsewhere if held_out else replace(dataset, validation=None)
        held_out = False
    about = [
        {key: str(value) for key, value in vars(dataset).items()} | {"path": content(dataset.path)},
        [*tokenizer_key(tokenizer), model.train_prompt, train.max_length, str(train.overlong)],
        [VERSION, model.template_arguments, held_out],
    ]
    about += [[images.template, images.key, image_folders(dataset)]] if images else []
    key = hashlib.sha256(json.dumps(about, default=str).encode()).hexdigest()

    def make(folder: Path) -> None:
        tokenise(read(dataset, held_out), train, replace(tokeniser, dataset=dataset), key, folder).save(folder)

    folder = cached(cache / "data" / key[:16], make)
    if stored := StoredImages.load(folder):
        stored.check(folder)
    return folder


def tokenise(
    rows: Rows, train: TrainConfig, tokeniser: Tokeniser, key: str = "", folder: Path | None = None
) -> Examples:
    """The examples of every usable row; the report counts what was left out. Images go to a folder at once.

    Raises ValueError when more than `dataset.max_broken` of the rows cannot be used, when the chat template cannot
    hold them, or when none fits.
    """
    dataset = tokeniser.dataset
    check_broken(rows.broken, len(rows), dataset, rows.table.place)
    collected = collect(rows, train, tokeniser)
    check_broken(collected.broken, len(rows), dataset, rows.table.place)
    if not collected.tokens:
        raise ValueError(f"no row of {dataset.path} fits train.max_length={train.max_length}: raise it")
    examples = collected.examples(rows, notes(rows, tokeniser), key, folder)
    return replace(examples, ends=sorted(collected.ends & tokeniser.special))


@dataclass
class Collected:
    """Examples that fit, one after another, each with the number of its row; and what was left out."""

    limit: int  # tokens
    tokens: list[np.ndarray] = field(default_factory=list)
    spans: list[tuple[Span, ...]] = field(default_factory=list)
    weights: list[tuple[float, ...]] = field(default_factory=list)  # of the trained tokens that fit
    images: list[tuple[Any, ...]] = field(default_factory=list)  # of each example, what stands for them
    image_tokens: int = 0
    numbers: list[int] = field(default_factory=list)
    broken: dict[int, str] = field(default_factory=dict)  # why a row cannot be used
    overlong: list[tuple[int, int]] = field(default_factory=list)  # number and length of what was dropped
    truncated: list[int] = field(default_factory=list)  # numbers
    # What tells the prompt of each row with a reward from others, of those that are dropped, too.
    prompts: dict[int, bytes] = field(default_factory=dict)
    ends: set[int] = field(default_factory=set)  # the last tokens of trained spans that are not truncated

    def add(self, number: int, group: list[Encoded], drop: bool, weights: tuple[float, ...] = ()) -> None:
        """Add a group of examples, truncated to the limit; or drop it whole, with `drop` or where a prompt fills it, an
        image does not fit or the two answers of a pair are the same up to it."""
        longest = max(len(encoded.ids) for encoded in group)
        if longest > self.limit:
            filled = any(max(encoded.prompt, encoded.behind_images) >= self.limit for encoded in group)
            if drop or filled or (len(group) == 2 and group[0].ids[: self.limit] == group[1].ids[: self.limit]):
                self.overlong.append((number, longest))
                return
            self.truncated.append(number)
        for encoded in group:
            self.tokens.append(np.array(encoded.ids[: self.limit], dtype=np.int32))
            kept = tuple((start, min(stop, self.limit)) for start, stop in encoded.spans if start < self.limit)
            self.spans.append(kept)
            self.weights.append(weights[: _length(kept)])
            self.numbers.append(number)
            self.images.append(encoded.images)
            self.image_tokens += encoded.image_tokens
            self.ends |= {encoded.ids[stop - 1] for _, stop in encoded.spans if stop <= self.limit}

    def examples(self, rows: Rows, sentences: list[str], key: str, folder: Path | None = None) -> Examples:
        lengths = np.array([len(ids) for ids in self.tokens])
        prompts = np.array([spans[0][0] for spans in self.spans])
        offsets = np.r_[0, lengths.cumsum()]
        trained = None
        if any(len(spans) > 1 for spans in self.spans):
            trained = np.zeros(offsets[-1], dtype=np.bool_)
            for offset, spans in zip(offsets, self.spans, strict=False):
                for start, stop in spans:
                    trained[offset + start : offset + stop] = True
        answers = lengths - prompts if trained is None else trained
        report = {"rows": len(rows), "broken": len(self.broken)}
        report |= {"overlong_dropped": len(self.overlong), "truncated": len(self.truncated)}
        report |= {"examples": len(self.tokens), "tokens": int(lengths.sum()), "answer_tokens": int(answers.sum())}
        images = StoredImages.write(self.images, folder) if any(self.images) else None
        if images is not None:
            report |= {"images": len(images.numbers), "image_tokens": self.image_tokens}
        rewards = None
        if rows.layout.rewards:
            rewards = np.array([rows.usable[number].rewards for number in self.numbers], dtype=np.float32)
            if rewards.shape[1] == 1:
                rates = self._success_rates(rows)
                rewards = np.c_[rewards, [rates[number] for number in self.numbers]].astype(np.float32)
        weights = np.concatenate(self.weights).astype(np.float32) if rows.layout.weights else None
        unit, tokens = len(rows.layout.answers), np.concatenate(self.tokens)
        about = (key, report, sentences, unit, rewards, weights, trained)
        return Examples(tokens, offsets, prompts, *about, rows=np.array(self.numbers), images=images)

    def _success_rates(self, rows: Rows) -> dict[int, float]:
        """Of each row, the mean reward of all answers to its prompt."""
        found: defaultdict[bytes, list[float]] = defaultdict(list)
        for number, prompt in self.prompts.items():
            found[prompt].append(rows.usable[number].rewards[0])
        return {number: sum(found[prompt]) / len(found[prompt]) for number, prompt in self.prompts.items()}


def _prompt(encoded: Encoded) -> bytes:
    ids = np.array(encoded.ids[: encoded.prompt], dtype=np.int32)
    return hashlib.sha256(ids.tobytes() + digest(encoded.images)).digest()


def _length(spans: Sequence[Span]) -> int:
    return sum(stop - start for start, stop in spans)


def collect(rows: Rows, train: TrainConfig, tokeniser: Tokeniser) -> Collected:
    """The examples of every usable row. Raises ValueError when the chat template cannot hold them."""
    layout, dataset = rows.layout, tokeniser.dataset
    if layout.weights and len(layout.answers) == 2:
        raise ValueError("dataset.weights_column has the weights of one answer, and pairs have two: leave it out")
    if dataset.turns == Turns.each and (len(layout.answers) == 2 or layout.rewards or layout.weights):
        what = "rewards" if layout.rewards else "weights" if layout.weights else "pairs"
        raise ValueError(f"dataset.turns=each splits rows, which {what} hold together: set it to all or last")
    collected = Collected(train.max_length, broken=dict(rows.broken))
    numbers = list(rows.usable)
    with bar("tokenising", len(numbers), "row", disable=len(numbers) < 10 * CHUNK) as progress:
        for start in range(0, len(numbers), CHUNK):
            part = numbers[start : start + CHUNK]
            try:
                for number, groups in zip(part, tokeniser([rows.usable[n] for n in part]), strict=True):
                    if isinstance(groups, Unusable):
                        collected.broken[number] = str(groups)
                        continue
                    weights = rows.usable[number].weights
                    if reason := _not_as_told(groups[0], weights, layout):
                        collected.broken[number] = reason
                        continue
                    if layout.rewards:
                        collected.prompts[number] = _prompt(groups[0][0])
                    for group in groups:
                        collected.add(number, group, train.overlong == Overlong.drop, weights)
            except Rewritten as error:
                reason, i = error.args
                raise ValueError(
                    f"{rows.table.place(part[i])}: the chat template does not keep the turns as they were sampled "
                    f"({reason}): {_remedy(tokeniser)}"
                ) from None
            progress.update(len(part))
    return collected


def _not_as_told(group: list[Encoded], weights: tuple[float, ...], layout: Layout) -> str:
    """Why the tokens of a row are not what its columns promise; empty where they are."""
    if len(group) == 2 and group[0] == group[1]:
        return "has the same chosen and rejected answer"
    trained = sum(_length(encoded.spans) for encoded in group)
    if layout.weights and len(weights) != trained:
        return f"has {len(weights)} weights in `{layout.weights}` for {trained} trained tokens"
    return ""


def _remedy(tokeniser: Tokeniser) -> str:
    if tokeniser.dataset.turns == Turns.all:
        return "set dataset.turns=each, which makes an example of every turn, or last"
    return "set model.template_arguments, or give a prompt and an answer in columns of texts"
