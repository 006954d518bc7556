"""Rows from JSON lines, JSON, CSV, TSV, Parquet and Arrow files, also compressed; errors name file and line."""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from losslab.config.messages import first_line

LINES = (".jsonl", ".ndjson")
BINARY = (".parquet", ".arrow")
FORMATS = (*LINES, ".json", ".csv", ".tsv", *BINARY)
COMPRESSIONS = (".gz", ".zst")
NOT_TABLES = (".txt", ".md", ".zip", ".tar", ".tgz", ".bz2", ".xz", ".7z", ".xlsx", ".xls", ".yaml", ".yml", ".xml")
LONGEST_LINE = 64 << 20  # bytes; a longer line is not a row of text
LONGEST_TYPE = 60  # characters of a type in a message
Raw = dict[str, Any]  # a row as the file has it


def suffix(path: str) -> tuple[str, str]:
    """The format and the compression of a file by its name, in lower case: rows.JSONL.gz -> ('.jsonl', '.gz')."""
    endings = [ending.lower() for ending in Path(path).suffixes[-2:]]
    compression = endings.pop() if endings and endings[-1] in COMPRESSIONS else ""
    return (endings[-1] if endings else ""), compression


def is_file_name(path: str) -> bool:
    """Whether a path names files of a format in FORMATS. Raises ValueError for a file of another format."""
    form, compression = suffix(path)
    if form in FORMATS:
        return True
    if form in NOT_TABLES or compression or Path(path).is_file():
        raise ValueError(
            f"dataset.path={path} is not a table: give a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file, also "
            "compressed (.gz, .zst), or a folder of save_to_disk"
        )
    return False


def rows(path: Path) -> Iterator[tuple[int, Raw]]:
    """The rows of a text file, each with its line number (for a JSON array: its position), from 1.

    Raises ValueError, with file and line, for a row that cannot be read.
    """
    form, _ = suffix(path.name)
    if form in LINES or (form == ".json" and not _begins_with_bracket(path)):
        return _json_lines(path)
    return _json_array(path) if form == ".json" else _delimited(path, "," if form == ".csv" else "\t")


def arrow(path: Path) -> Any:
    """The pyarrow.Table of a Parquet or Arrow file. Raises ValueError if it cannot be read."""
    import pyarrow
    from pyarrow import parquet

    form, compression = suffix(path.name)
    try:
        with _bytes(path) as stream:
            whole = pyarrow.BufferReader(stream.read()) if compression else pyarrow.memory_map(str(path))
        if form == ".parquet":
            return parquet.read_table(whole)
        with whole as file:
            try:
                return pyarrow.ipc.open_stream(file).read_all()
            except pyarrow.ArrowInvalid:
                file.seek(0)
                return pyarrow.ipc.open_file(file).read_all()
    except (OSError, EOFError, zlib.error, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} is damaged or not a {form} file ({first_line(error)}): recreate it") from None


def joined(files: Sequence[str]) -> tuple[Any, tuple[str, ...]]:
    """The pyarrow.Table of the rows of Parquet or Arrow files, one after another, and what had to be widened.

    A column may have another type in each file where one type holds all their values; a sentence names it. Raises
    ValueError where a file cannot be read, or no type does.
    """
    import pyarrow

    parts = [arrow(Path(file)) for file in files]
    first: dict[str, tuple[Any, str]] = {}  # the type of each column, and the file that has it
    differing: dict[str, str] = {}
    for file, part in zip(files, parts, strict=True):
        for name, kind in zip(part.schema.names, part.schema.types, strict=True):
            if kind == pyarrow.null():  # of a column that is empty there, which is of any type
                continue
            before, there = first.setdefault(name, (kind, file))
            if before != kind:
                shown = f"`{name}` is {_shortened(before)} in {there} and {_shortened(kind)} in {file}"
                differing.setdefault(name, shown)
    try:
        whole = pyarrow.concat_tables(parts, promote_options="permissive" if differing else "default")
    except pyarrow.ArrowException as error:
        shown = "; ".join(differing.values()) or first_line(error)
        raise ValueError(f"the files cannot be read as one table ({shown}): give each column one type") from None
    widened = {name: _shortened(whole.schema.field(name).type) for name in differing}
    return whole, tuple(f"{shown}: read as {widened[name]}" for name, shown in differing.items())


def _bytes(path: Path) -> IO[bytes]:
    _, compression = suffix(path.name)
    if compression == ".gz":
        return gzip.open(path)  # type: ignore[return-value]
    if compression == ".zst":
        import pyarrow

        return BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))
    return path.open("rb")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file in UTF-8, with their numbers."""
    number = 0
    with _bytes(path) as stream:
        while True:
            try:
                line = stream.readline(LONGEST_LINE + 1)
            except (OSError, EOFError, zlib.error) as error:
                raise ValueError(
                    f"{path}: the file is damaged or truncated after line {number} ({first_line(error)}): recreate it"
                ) from None
            if not line:
                return
            number += 1
            if len(line) > LONGEST_LINE:
                raise ValueError(
                    f"{path}:{number}: this line is longer than {LONGEST_LINE >> 20} MiB: shorten or remove the row"
                )
            if number == 1:
                if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise ValueError(f"{path} is in UTF-16: convert it, as in iconv -f utf-16 -t utf-8")
                line = line.removeprefix(b"\xef\xbb\xbf")
            try:
                yield number, line.decode()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}:{number}: byte {error.start + 1} of this line (0x{line[error.start]:02x}) is not UTF-8: "
                    "convert the file, as in iconv -f latin1 -t utf-8"
                ) from None


def _json_lines(path: Path) -> Iterator[tuple[int, Raw]]:
    for number, line in _lines(path):
        if not line.isspace():
            yield number, _object(_parsed(line, f"{path}:{number}: this line"), f"{path}:{number}: this line")


def _json_array(path: Path) -> Iterator[tuple[int, Raw]]:
    text = "".join(line for _, line in _lines(path))
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: the file is not valid JSON here ({error.msg}): correct it") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({first_line(error)}): correct it") from None
    for number, value in enumerate(values, start=1):
        yield number, _object(value, f"{path}: item {number} of the array")


def _delimited(path: Path, delimiter: str) -> Iterator[tuple[int, Raw]]:
    csv.field_size_limit(LONGEST_LINE)
    first = next((line for _, line in _lines(path)), "")
    if delimiter == "," and "," not in first and ";" in first:  # as some spreadsheets write it
        delimiter = ";"
    reader = csv.reader((line for _, line in _lines(path)), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{path}:{reader.line_num}: this line cannot be read ({error}): correct it") from None
        if fields is None:
            return
        if not header:
            header = fields
            if len(set(header)) < len(header):
                raise ValueError(f"{path}:1: the header has a column twice: rename one")
        elif fields:
            if len(fields) != len(header):
                raise ValueError(
                    f"{path}:{reader.line_num}: this row has {len(fields)} fields, but the header {len(header)}: "
                    "correct it"
                )
            yield reader.line_num, dict(zip(header, fields, strict=True))


def _begins_with_bracket(path: Path) -> bool:
    for _, line in _lines(path):
        if text := line.strip():
            return text[0] == "["
    return False


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{place} is nested too deeply to be read: correct or remove it") from None
    except ValueError as error:
        raise ValueError(f"{place} is not valid JSON, correct or remove it ({first_line(error)})") from None


def _object(value: Any, place: str) -> Raw:
    if not isinstance(value, dict):
        raise ValueError(f"{place} is a JSON {type(value).__name__}, not an object: write one object for each row")
    return value


def _shortened(kind: Any) -> str:
    """The name of a pyarrow type; that of messages has one for each of their keys."""
    return text if len(text := str(kind)) <= LONGEST_TYPE else f"{text[: LONGEST_TYPE - 1]}…"
