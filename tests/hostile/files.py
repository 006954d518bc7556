"""Files of rows that are no rows: of training data and of benchmarks."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

from hostile.case import CODE, Case
from hostile.entry import call
from hostile.values import LONG, draw, json_values, texts

Writer = Callable[[Path], None]
GOOD = '{"problem": "1+1=?", "solution": "2", "answer": "2"}\n'
MIB = 1 << 20


def as_text(text: str) -> Writer:
    return lambda path: path.write_text(text, encoding="utf-8") and None


def as_bytes(content: bytes) -> Writer:
    return lambda path: path.write_bytes(content) and None


def rows(*rows: object) -> Writer:
    return as_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def missing(path: Path) -> None:
    path.unlink(missing_ok=True)


def folder(path: Path) -> None:
    path.mkdir()


def link(path: Path) -> None:
    path.symlink_to("nowhere")


def unreadable(path: Path) -> None:
    path.write_text(GOOD)
    path.chmod(0)


LISTED: dict[str, Writer] = {
    "empty": as_bytes(b""),
    "blank lines": as_text("\n\n\n"),
    "one bracket": as_text("["),
    "a list": as_text("[1, 2]\n"),
    "null": as_text("null\n"),
    "a torn last line": as_text(GOOD + GOOD[:20]),
    "no line end": as_text(GOOD.strip()),
    "carriage returns": as_text(GOOD.replace("\n", "\r\n") * 3),
    "a byte order mark": as_text("\ufeff" + GOOD),
    "UTF-16": as_bytes(GOOD.encode("utf-16")),
    "Latin-1": as_bytes('{"problem": "é", "solution": "é"}\n'.encode("latin-1")),
    "zero bytes": as_bytes(b"\0" * 4096),
    "random bytes": as_bytes(bytes(i * 37 % 256 for i in range(4096))),
    "a zip": as_bytes(b"PK\x03\x04" + b"\0" * 100),
    "gzip": as_bytes(gzip.compress(GOOD.encode())),
    "a pickle": as_bytes(b"cos\nsystem\n(S'touch " + CODE.encode() + b"'\ntR."),
    "a gzip bomb": as_bytes(gzip.compress(b"0" * (300 * MIB), 1)),
    "nested": as_text("[" * 20000 + "\n"),
    "nested objects": as_text('{"problem": ' + '{"a": ' * 5000 + "1" + "}" * 5001 + "\n"),
    "a line of 100 MB": as_bytes(b'{"solution": "1", "problem": "' + b"x" * (100 * MIB) + b'"}'),
    "a number of 5000 digits": as_text('{"problem": ' + "9" * 5000 + ', "solution": "2"}\n'),
    "duplicate keys": as_text('{"problem": "a", "problem": "b", "solution": "2", "answer": "2"}\n'),
    "mixed columns": rows({"problem": "a", "solution": "b"}, {"other": 1}),
    "mixed types": rows({"problem": "a", "solution": "b"}, {"problem": 3, "solution": ["x"]}),
    "only nulls": rows({"problem": None, "solution": None, "answer": None}),
    "only blanks": rows({"problem": " ", "solution": "\n", "answer": "\t"}),
    "a long text": rows({"problem": LONG, "solution": LONG, "answer": "2"}),
    "missing": missing,
    "a folder": folder,
    "a link to nothing": link,
}  # fmt: skip


def any_writer() -> st.SearchStrategy[tuple[str, Writer]]:
    """Rows of anything, broken bytes, and lines of anything."""
    keys = st.sampled_from(["problem", "solution", "answer", "question", "id"])
    row = st.dictionaries(keys, json_values(), max_size=4)
    some_rows = st.lists(row | json_values(), min_size=1, max_size=4).map(lambda rs: (f"rows {rs!r}"[:100], rows(*rs)))
    some_bytes = st.binary(max_size=200).map(lambda b: (f"bytes {b!r}"[:100], as_bytes(b)))
    some_lines = st.lists(texts(), max_size=4).map(lambda ls: (f"lines {ls!r}"[:100], as_text("\n".join(ls) + "\n")))
    return some_rows | some_bytes | some_lines


def writers(count: int, number: int) -> list[tuple[str, Writer]]:
    listed = list(LISTED.items())[:count]
    return listed + draw(any_writer(), count - len(listed), number)


def data_cases(count: int, model: Path) -> list[Case]:
    """Training data: rows are read and tokenised, as the first thing that a cell does."""

    def prepare_rows() -> None:
        from losslab.config.schema import DatasetConfig, ModelConfig, TrainConfig
        from losslab.data.examples import prepare
        from losslab.data.tokenise import Tokeniser
        from losslab.models.loading import load_tokenizer

        about = ModelConfig(path=str(model), train_prompt="{problem}")
        tokeniser = Tokeniser(about, DatasetConfig(path="rows.jsonl"), load_tokenizer(about))
        prepare(tokeniser, TrainConfig(), Path("results/cache"))

    return [
        Case("data file", title, call(prepare_rows), ("rows.jsonl", "dataset."), at("rows.jsonl", writer))
        for title, writer in writers(count, 1)
    ]


def benchmark_cases(count: int) -> list[Case]:
    """Problems with their gold answers, and what the graders make of those."""

    def load() -> None:
        from losslab.config.benchmark import BenchmarkConfig
        from losslab.config.choices import Gold
        from losslab.evaluation import benchmarks

        kind = Gold.column
        benchmarks.load("math500", BenchmarkConfig(path="x", gold=kind), "data")

    return [
        Case("benchmark file", title, call(load), ("math500",), at("data/math500.jsonl", writer))
        for title, writer in writers(count, 2)
    ]


def at(name: str, writer: Writer) -> Writer:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        writer(folder / name)

    return write
