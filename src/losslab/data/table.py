"""The rows of a data set as they stand in it, wherever it lies: embedded, in files, or on the hub."""

import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from losslab.config.choices import Selection
from losslab.config.messages import first_line, under_key
from losslab.config.schema import EMBEDDED, DatasetConfig
from losslab.data import hub_datasets, read_files, toy_pictures, toy_programs, toy_task
from losslab.data.read_files import Raw
from losslab.files.content import named

MAKERS: dict[str, Callable[[int, int], list[Raw]]] = {  # splits of the embedded data set
    "corpus": toy_task.corpus,
    "demonstrations": toy_task.demonstrations,
    "traces": toy_task.traces,
    "facts": toy_task.facts,
    "program_corpus": toy_programs.corpus,
    "programs": toy_programs.demonstrations,
    "picture_corpus": toy_pictures.corpus,
    "pictures": toy_pictures.demonstrations,
}
COLUMNS = ("problem", "solution", "answer")  # of the embedded data set
PICTURED = ("picture_corpus", "pictures")  # its splits with another one, `image`
SAVED = ("dataset_info.json", "dataset_dict.json")  # what a folder of save_to_disk holds
HELD_OUT = 1  # what tells the seed of the draw of held-out rows from that of other draws
BATCH = 1000  # rows of an Arrow table that are Python objects at once


@dataclass(frozen=True)
class Table:
    """Rows with what each column holds, and where each of them stands."""

    path: str
    columns: list[str]
    numbers: np.ndarray  # (rows,) int64: the number of each row in the whole, from 1
    data: Any  # a list of rows, or a datasets.Dataset
    files: tuple[tuple[int, str], ...] = ()  # the number of rows before each file, and its name
    lines: Sequence[int] = ()  # of each row of the whole, where it stands in its file
    remarks: tuple[str, ...] = ()  # sentences on what was left out or changed in reading

    def __len__(self) -> int:
        return len(self.numbers)

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Raw]:
        """The rows in order, with some columns or all; a row that lacks a column has None there."""
        if isinstance(self.data, list):
            yield from self.data
            return
        chosen = self.data.select_columns(list(dict.fromkeys(columns or self.columns))).with_format("arrow")
        for batch in chosen.iter(BATCH):
            for row in batch.to_pylist():
                yield {column: without_nulls(value) for column, value in row.items()}

    def head(self, count: int) -> list[Raw]:
        some = self.data[:count] if isinstance(self.data, list) else self.data.select(range(min(count, len(self))))
        return list(replace(self, data=some).rows())

    def folder(self, number: int) -> Path:
        """What paths in a row are relative to: the folder of its file, or that of `save_to_disk`."""
        if self.files:
            return Path(self._file(number)).parent
        path = Path(self.path)
        return path if path.is_dir() else path.parent

    def place(self, number: int) -> str:
        """Where a row stands: `rows.jsonl:17`, or `row 17 of gsm8k`."""
        if not self.files or not self.lines:
            return f"row {number} of {self.path}"
        return f"{self._file(number)}:{self.lines[number - 1]}"

    def _file(self, number: int) -> str:
        return self.files[bisect_right(self.files, number - 1, key=lambda entry: entry[0]) - 1][1]


def local_files(dataset: DatasetConfig) -> list[str]:
    """The files on this machine that a data set names; none where it is embedded, a folder or on the hub.

    Raises ValueError where a file is missing or of a kind that holds no rows, or where the embedded data set has no
    such rows.
    """
    path = dataset.path
    if path == EMBEDDED:
        if dataset.split not in MAKERS:
            raise ValueError(f"dataset.split={dataset.split} does not exist: set it to one of {', '.join(MAKERS)}")
        if dataset.rows is None:
            raise ValueError("dataset.rows has no value: the embedded data set is made on the spot, say how many rows")
        columns = [*COLUMNS, *(["image"] if dataset.split in PICTURED else [])]
        keys = ("prompt_column", "answer_column", "rejected_column", "reward_column", "gold_column", "images_column")
        for key in keys:
            if (column := getattr(dataset, key)) is not None and column not in columns:
                raise ValueError(f"{EMBEDDED} has no column {column!r} but {columns}: set dataset.{key}")
        return []
    if Path(path).is_dir() or not read_files.is_file_name(path):
        return []
    files = [str(file) for file in named(path)]
    if not files:
        raise ValueError(f"dataset.path={path} names no file: check the path")
    return files


def image_folders(dataset: DatasetConfig) -> list[str]:
    """What paths of images in the rows are relative to, without links; none for rows that do not lie here."""
    if dataset.image_folder:
        return [str(Path(dataset.image_folder).resolve())]
    path = Path(dataset.path)
    folders = {path} if path.is_dir() else {Path(file).parent for file in local_files(dataset)}
    return sorted(str(folder.resolve()) for folder in folders)


def held_out_file(dataset: DatasetConfig) -> DatasetConfig | None:
    """The data set of the held-out rows, where they are not a share of the rows but lie elsewhere."""
    if not isinstance(dataset.validation, str):
        return None
    split = "train" if dataset.path == EMBEDDED else dataset.split
    elsewhere = replace(dataset, path=dataset.validation, split=split, revision=None, subset=None)
    return replace(elsewhere, rows=None, validation=None)


def held_out_count(dataset: DatasetConfig, rows: int) -> int:
    """How many of a number of rows are held out. Raises ValueError where none would be left to train on."""
    if not isinstance(dataset.validation, float):
        return 0
    count = max(1, round(dataset.validation * rows))
    if count >= rows:
        raise ValueError(
            f"dataset.validation={dataset.validation:g} of {rows} row{'s' * (rows > 1)} leaves none to train on: "
            "lower it"
        )
    return count


def unanswered(dataset: DatasetConfig) -> bool:
    """Whether a data set consists of a model's own answers that are not there yet."""
    return dataset.source is not None and dataset.path.endswith(".jsonl") and not named(dataset.path)


def count(dataset: DatasetConfig) -> int | None:
    """How many rows a data set has before its selection, without its texts where that is cheap; None on the hub."""
    if dataset.path == EMBEDDED or not (files := local_files(dataset)):
        return dataset.rows
    total = 0
    for file in files:
        form, compression = read_files.suffix(file)
        if form == ".parquet" and not compression:
            from pyarrow import parquet

            total += parquet.ParquetFile(file).metadata.num_rows
        elif form in read_files.BINARY:
            total += len(read_files.arrow(Path(file)))
        else:
            total += sum(1 for _ in read_files.rows(Path(file)))
    return total


def load(dataset: DatasetConfig, held_out: bool = False) -> Table:
    """The rows of a data set after their selection: those that are trained, or those that are held out.

    Which are held out depends on `dataset.seed` alone, so that all cells of a sweep hold out the same. Raises
    ValueError when the data set is missing, empty or unreadable.
    """
    if held_out and (elsewhere := held_out_file(dataset)):
        with under_key("dataset.validation", "dataset.path"):
            return load(elsewhere)
    table = _whole(dataset)
    if not len(table):
        raise ValueError(f"{dataset.path} has no rows: check the file")
    chosen, remarks = _kept(table, dataset), table.remarks
    if dataset.keep:
        remarks = (*remarks, f"dataset.keep keeps {len(chosen):,} of {len(table):,} rows")
    assert dataset.seed is not None, "Config.seeded gives it one"
    if dataset.rows is not None and dataset.rows < len(chosen):
        if dataset.selection == Selection.random:
            chosen = np.random.default_rng(dataset.seed).permutation(chosen)
        chosen = np.sort(chosen[: dataset.rows])
    if count := held_out_count(dataset, len(chosen)):
        order = np.random.default_rng([dataset.seed, HELD_OUT]).permutation(chosen)
        chosen = np.sort(order[:count] if held_out else order[count:])
    if len(chosen) == len(table):
        return replace(table, remarks=remarks)
    data = [table.data[i] for i in chosen] if isinstance(table.data, list) else table.data.select(chosen)
    return replace(table, data=data, numbers=chosen + 1, remarks=remarks)


def _kept(table: Table, dataset: DatasetConfig) -> np.ndarray:
    """The positions of the rows that `dataset.keep` keeps, (rows,) int64. Raises ValueError where there are none."""
    chosen = np.arange(len(table))
    if not dataset.keep:
        return chosen
    for column in dataset.keep:
        if column not in table.columns:
            raise ValueError(f"{dataset.path} has no column {column!r} but {table.columns}: set dataset.keep")
    patterns = {column: re.compile(pattern) for column, pattern in dataset.keep.items()}
    marks = [
        all(pattern.search(_written(row.get(column))) for column, pattern in patterns.items())
        for row in table.rows(list(patterns))
    ]
    if not any(marks):
        raise ValueError(f"dataset.keep keeps no row of {dataset.path}: check its patterns")
    return chosen[np.array(marks)]


def _written(value: Any) -> str:
    """A value as the patterns of `dataset.keep` read it: nothing for what is missing, else as Python prints it."""
    return "" if value is None else str(value)


def _whole(dataset: DatasetConfig) -> Table:
    path, files = dataset.path, local_files(dataset)
    if path == EMBEDDED:
        assert dataset.rows is not None and dataset.seed is not None
        return _table(path, MAKERS[dataset.split](dataset.rows, dataset.seed))
    binary = {read_files.suffix(file)[0] in read_files.BINARY for file in files}
    if len(binary) > 1:
        raise ValueError(f"dataset.path={path} names files of several kinds: name those of one kind")
    if False in binary:
        return _of_text(path, files)
    if binary:
        from datasets import Dataset

        joined, remarks = read_files.joined(files)
        return replace(_table(path, Dataset(joined)), remarks=remarks)
    try:
        if any((Path(path) / name).is_file() for name in SAVED):
            return _table(path, _saved(dataset))
        whole = hub_datasets.load_dataset(path, dataset.subset, split=dataset.split, revision=dataset.revision)
    except Exception as error:
        raise ValueError(f"the data set {path} cannot be read ({first_line(error)}): check dataset.path") from error
    return _table(path, whole)


def _of_text(path: str, files: list[str]) -> Table:
    data: list[Raw] = []
    lines, begins = array("l"), []
    for file in files:
        begins.append((len(data), file))
        for line, row in read_files.rows(Path(file)):
            data.append(row)
            lines.append(line)
    return replace(_table(path, data), files=tuple(begins), lines=lines)


def _table(path: str, data: Any) -> Table:
    columns = list(dict.fromkeys(key for row in data for key in row)) if isinstance(data, list) else data.column_names
    return Table(path, columns, np.arange(1, len(data) + 1), data)


def _saved(dataset: DatasetConfig) -> Any:
    """The datasets.Dataset of a folder that `save_to_disk` wrote."""
    from datasets import DatasetDict, load_from_disk

    whole = load_from_disk(dataset.path)
    if isinstance(whole, DatasetDict):
        if dataset.split not in whole:
            raise ValueError(f"it has no split {dataset.split} but {', '.join(whole)}, set dataset.split")
        whole = whole[dataset.split]
    return whole


def without_nulls(value: Any) -> Any:
    """Without keys of null: Arrow gives each object the keys of all others in its column."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value
