"""From rows of text to token ids, made once and kept.

Prompt and answer are tokenised apart and joined, so that the model is trained on exactly the token boundary at which
it will be sampled; the answer ends in EOS; the loss is on answer tokens only.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from losslab.config.schema import EMBEDDED, DatasetConfig, Overlong, TrainConfig
from losslab.data import hub_datasets
from losslab.data.prompts import encode, render
from losslab.files import content, lock, named
from losslab.progress import bar

CHUNK = 1000  # rows tokenised at once
SPLITS = ("corpus", "demonstrations", "traces", "facts")  # of the embedded data set: functions of `toy_task`


@dataclass(frozen=True)
class Examples:
    """Examples in flat arrays: number i is `tokens[offsets[i]:offsets[i+1]]`, its answer begins at `prompts[i]`."""

    tokens: np.ndarray  # (sum of lengths,) int32
    offsets: np.ndarray  # (examples + 1,) int64
    prompts: np.ndarray  # (examples,) int64: length of the prompt, at least 1
    key: str  # SHA-256 of everything that decided the tokens
    report: dict[str, Any]  # rows read, broken, dropped, truncated
    unit: int = 1  # neighbours that stay together: 2 where each chosen answer is followed by the rejected one
    rewards: np.ndarray | None = None  # (examples, 2) float32: reward of the answer, success rate of its question

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @property
    def answers(self) -> np.ndarray:
        """(examples,) number of answer tokens."""
        return self.lengths - self.prompts

    @property
    def units(self) -> np.ndarray:
        """(examples / unit,) tokens of each unit."""
        return self.lengths.reshape(-1, self.unit).sum(1)

    def expand(self, units: np.ndarray) -> np.ndarray:
        """The examples of some units, in order."""
        return (units[:, None] * self.unit + np.arange(self.unit)).reshape(-1)

    @classmethod
    def load(cls, folder: Path) -> "Examples":
        about = json.loads((folder / "about.json").read_text())
        arrays = {file.stem: np.load(file, mmap_mode="r") for file in folder.glob("*.npy")}
        return cls(**arrays, **about)

    def save(self, folder: Path) -> None:
        """Appears whole: written beside its place, then renamed."""
        temporary = folder.with_name(f".{folder.name}.writing")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name in ("tokens", "offsets", "prompts", "rewards"):
            if (array := getattr(self, name)) is not None:
                np.save(temporary / f"{name}.npy", array)
        (temporary / "about.json").write_text(json.dumps({"key": self.key, "report": self.report, "unit": self.unit}))
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)


def prepare(dataset: DatasetConfig, train: TrainConfig, tokenizer: Any, template: str, cache: Path) -> Path:
    """Tokenise a data set once and keep it; returns the folder of the `Examples`.

    Raises ValueError when the file, a column or too many rows are unusable.
    """
    vocabulary = hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
    about = [
        {key: str(value) for key, value in vars(dataset).items()} | {"path": content(dataset.path)},
        [vocabulary, tokenizer.chat_template, template, train.max_length, str(train.overlong)],
    ]
    key = hashlib.sha256(json.dumps(about, default=str).encode()).hexdigest()
    folder = cache / "data" / key[:16]
    with lock(cache / "data" / f"{key[:16]}.lock"):  # the cells of a sweep may start together
        if not folder.exists():
            tokenise(read(dataset), dataset, train, tokenizer, template, key).save(folder)
    return folder


def local_files(dataset: DatasetConfig) -> list[str]:
    """The files on this machine that a data set names; none where it is embedded or on the hub.

    Raises ValueError where a file is missing, or where the embedded data set has no such rows.
    """
    path = dataset.path
    if path == EMBEDDED:
        if dataset.split not in SPLITS:
            raise ValueError(f"dataset.split={dataset.split} does not exist: set it to one of {', '.join(SPLITS)}")
        if dataset.rows is None:
            raise ValueError("dataset.rows has no value: the embedded data set is made on the spot, say how many rows")
        _check_columns(dataset, ["problem", "solution", "answer"])
    if not path.endswith((".jsonl", ".json", ".parquet")):
        return []
    files = [str(file) for file in named(path)]
    if not files:
        raise ValueError(f"dataset.path={path} names no file: check the path")
    return files


def unanswered(dataset: DatasetConfig) -> bool:
    """Whether a data set consists of a model's own answers that are not there yet."""
    return dataset.source is not None and dataset.path.endswith(".jsonl") and not named(dataset.path)


def read(dataset: DatasetConfig, names: list[str] | None = None) -> dict[int, tuple[Any, ...]]:
    """The rows of a data set after their selection, by their number in the whole, which counts from 1.

    A row is (prompt, answer), (prompt, chosen, rejected) or (prompt, answer, reward, success rate), or it has the
    columns in `names`. Of a column of lists it has one text: see `text_of`. Raises ValueError when the source or a
    column is missing.
    """
    files = local_files(dataset)
    names = names or columns(dataset)
    if dataset.path == EMBEDDED:
        assert dataset.rows is not None
        from losslab.data import toy_task  # which imports transformers

        made = getattr(toy_task, dataset.split)(dataset.rows, dataset.seed)
        return {number: tuple(row[column] for column in names) for number, row in enumerate(made, start=1)}
    try:
        if files:
            from datasets import load_dataset

            kind = "parquet" if dataset.path.endswith(".parquet") else "json"
            table = load_dataset(kind, data_files=files, split="train")
        else:
            table = hub_datasets.load_dataset(dataset.path, split=dataset.split, revision=dataset.revision)
    except Exception as error:
        for file in files:
            _check_lines(file)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"the data set {dataset.path} cannot be read ({reason}): check dataset.path") from error
    if not len(table):
        raise ValueError(f"{dataset.path} has no rows: check the file")
    _check_columns(dataset, table.column_names)
    chosen = np.arange(len(table))
    if dataset.rows is not None and dataset.rows < len(table):
        if dataset.selection == "random":
            chosen = np.random.default_rng(dataset.seed).permutation(len(table))
        chosen = np.sort(chosen[: dataset.rows])
        table = table.select(chosen)
    roles = ["user" if column == dataset.prompt_column else "assistant" for column in names]
    texts = ([text_of(value, role) for value in table[column]] for column, role in zip(names, roles, strict=True))
    rows = zip(*texts, strict=True)
    return dict(zip((chosen + 1).tolist(), rows, strict=True))


def columns(dataset: DatasetConfig) -> list[str]:
    rejected = [] if dataset.rejected_column is None else [dataset.rejected_column]
    reward = [] if dataset.reward_column is None else [dataset.reward_column, dataset.success_rate_column]
    return [dataset.prompt_column, dataset.answer_column, *rejected, *reward]


def tokenise(
    rows: dict[int, tuple[Any, ...]],
    dataset: DatasetConfig,
    train: TrainConfig,
    tokenizer: Any,
    template: str,
    key: str = "",
) -> Examples:
    """Token ids of prompt + answer + EOS for every answer of every usable row; the report counts what was left out.

    `rows` are those of `read`. Raises ValueError when more than `dataset.max_broken` of them lack a usable text or
    reward, naming the first ones.
    """
    assert tokenizer.eos_token_id is not None
    unit = 1 if dataset.rejected_column is None else 2
    broken = [number for number, row in rows.items() if not _is_usable(row, 1 + unit)]
    usable = [row for row in rows.values() if _is_usable(row, 1 + unit)]
    if len(broken) > dataset.max_broken * len(rows):
        raise ValueError(
            f"{len(broken)} of {len(rows)} rows of {dataset.path} have no usable {' or '.join(columns(dataset))} (rows "
            f"{', '.join(map(str, broken[:10]))}{', …' if len(broken) > 10 else ''}): mend them or raise "
            "dataset.max_broken"
        )
    tokens: list[np.ndarray] = []
    prompts: list[int] = []
    rewards: list[tuple[float, ...]] = []
    dropped = truncated = 0
    with bar("tokenising", len(usable), "row", disable=len(usable) < 10 * CHUNK) as progress:
        for start in range(0, len(usable), CHUNK):
            part = usable[start : start + CHUNK]
            heads = encode([render(template, row[0], tokenizer) for row in part], tokenizer)
            texts = zip(*(row[1 : 1 + unit] for row in part), strict=True)
            answers = [tokenizer(list(column), add_special_tokens=False)["input_ids"] for column in texts]
            for row, head, *tails in zip(part, heads, *answers, strict=True):
                if not head:
                    raise ValueError("the training prompt has no token: model.train_prompt must not be empty")
                sequences = [[*head, *tail, tokenizer.eos_token_id] for tail in tails]
                if max(map(len, sequences)) > train.max_length:
                    if train.overlong == Overlong.drop or len(head) >= train.max_length:
                        dropped += 1
                        continue
                    truncated += 1
                for ids in sequences:
                    tokens.append(np.array(ids[: train.max_length], dtype=np.int32))
                    prompts.append(len(head))
                    rewards.append(row[1 + unit :])
            progress.update(len(part))
    if not tokens:
        raise ValueError(f"no row of {dataset.path} fits train.max_length={train.max_length}: raise it")
    lengths = np.array([len(ids) for ids in tokens])
    report = {"rows": len(rows), "broken": len(broken), "overlong_dropped": dropped, "truncated": truncated}
    report |= {"examples": len(tokens), "tokens": int(lengths.sum()), "answer_tokens": int((lengths - prompts).sum())}
    graded = None if dataset.reward_column is None else np.array(rewards, dtype=np.float32)
    return Examples(np.concatenate(tokens), np.r_[0, lengths.cumsum()], np.array(prompts), key, report, unit, graded)


def _check_columns(dataset: DatasetConfig, known: list[str]) -> None:
    keys = ["prompt_column", "answer_column", "rejected_column", "reward_column", "gold_column"]
    keys += ["success_rate_column"] if dataset.reward_column is not None else []
    for key in keys:
        column = getattr(dataset, key)
        if column is not None and column not in known:
            raise ValueError(f"{dataset.path} has no column {column!r} but {known}: set dataset.{key}")


def _check_lines(file: str) -> None:
    """Name the first line of a JSON-lines file that is none."""
    if not Path(file).stat().st_size:
        raise ValueError(f"{file} has no rows: check the file")
    if file.endswith(".jsonl"):
        with Path(file).open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    json.loads(line)
                except ValueError:
                    raise ValueError(f"{file}:{number}: this line is not JSON, mend or remove it") from None


def text_of(value: Any, role: str) -> Any:
    """The text of a list: the last message of `role` in a chat, the first one of several texts.

    A message that stands alone is taken whatever its role, and None stands for a chat without one of `role`. What is no
    list comes back as it is.
    """
    match value:
        case [str(text), *_] | [{"content": text}]:
            return text
        case [{"role": _}, *_]:
            own = [message for message in value if isinstance(message, dict) and message.get("role") == role]
            return own[-1].get("content") if own else None
    return value


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_usable(row: tuple[Any, ...], texts: int) -> bool:
    """Whether a row begins with so many texts, and all behind them are numbers from 0 to 1."""
    return all(map(is_text, row[:texts])) and all(
        isinstance(value, int | float) and 0 <= value <= 1 for value in row[texts:]
    )
