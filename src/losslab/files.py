"""Atomic writes of files and folders, locks of folders, and hashes of their content."""

import ast
import csv
import fcntl
import hashlib
import io
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from losslab.config.log import log
from losslab.config.masking import masked
from losslab.config.schema import EMBEDDED, EMBEDDED_LARGE, EMBEDDED_VISION

RECORD_VERSION = 1  # of the JSON files of a record; a file without a version is of version 0
VALIDATION = "validation.jsonl"  # in the folder of a cell: metrics on its held-out rows


def refuse_pickled_weights(model: str, names: Iterable[str]) -> None:
    """Raise ValueError if the files of a model hold weights in pickled formats only, and none as safetensors."""
    endings = {name.rpartition(".")[2] for name in names}
    if "safetensors" not in endings and endings & {"bin", "pt", "pth", "ckpt"}:
        raise ValueError(f"{model} has no safetensors weights: convert them, since pickled files can run code")


@contextmanager
def lock(folder: Path, quiet: bool = False) -> Iterator[None]:
    """Hold an exclusive lock of a folder. A second process waits here, and then finds the work done."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not quiet:
                log.info(f"waiting for another process that is using {folder.name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a file atomically, with permissions `mode` minus the umask. Secrets of the environment are masked in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8", opener=partial(os.open, mode=mode)) as file:
        file.write(masked(text))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    flush(path.parent)


def flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk, so that they survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def appear(temporary: Path, folder: Path) -> None:
    """Rename a folder that was written under a temporary name, once it is on disk, replacing an old one.

    Its files get the umask's default permissions: safetensors writes files that only their owner can read.
    """
    os.umask(umask := os.umask(0o077))
    for path in (*temporary.rglob("*"), temporary):
        if path.is_file():
            path.chmod(0o666 & ~umask)
        flush(path)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    flush(folder.parent)


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A temporary folder to write into, which is renamed to `folder` if the block ends without an exception."""
    temporary = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    except Exception:
        shutil.rmtree(temporary, ignore_errors=True)  # to make room for the record of the failure
        raise
    appear(temporary, folder)


def cached(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder of the cache. The first process that needs it calls `make` with the folder to fill; others wait."""
    with lock(folder.with_name(f"{folder.name}.lock")):
        if not folder.exists():
            with whole(folder) as temporary:
                make(temporary)
    return folder


def write_json(path: Path, value: Any, mode: int = 0o666) -> None:
    write(path, json.dumps(value, indent=1, default=str) + "\n", mode)


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file, or `{}` if it does not exist. Raises ValueError if it is not a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (not a JSON object): remove it")
    return content


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file, without an incomplete last line. Raises ValueError on any other damaged line."""
    whole = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    rows = []
    for number, line in enumerate(whole, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise ValueError(f"{path}:{number}: this line is damaged; remove it, and repeat the command") from None
    return rows


def csv_text(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A head and rows as CSV; None is an empty field."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([head, *rows])
    return out.getvalue()


def mend(path: Path) -> None:
    """Cut off an incomplete last line, before more is appended."""
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    write(path, "".join(json.dumps(row) + "\n" for row in rows))


def append_line(path: Path, row: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(masked(json.dumps(row) + "\n"))


# Hash of the rows, tokens and weights that `losslab.data.toy_task` makes; tests/test_toy_task.py checks it.
TOY_TASK = "9c3ffb0277d14bc459918cd9788dda4a66f2f62181cbeda176d765b24776f4fc"


def content(path: str) -> str:
    """A hash of the local file, folder or files that a path or pattern names; a hub id is returned unchanged.

    Data files are hashed in full, weights by their size and 64 samples of 64 KiB.
    """
    if path == EMBEDDED:
        return TOY_TASK
    if path == EMBEDDED_LARGE:
        return f"{TOY_TASK}, large"
    if path == EMBEDDED_VISION:
        return f"{TOY_TASK}, vision"
    root = Path(path)
    files = sorted(root.rglob("*")) if root.is_dir() else named(str(root))
    if not files:
        return path
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            size = file.stat().st_size
            digest.update(f"{file.relative_to(root) if root.is_dir() else ''}:{size}:".encode())
            with file.open("rb") as stream:
                if file.suffix in (".safetensors", ".bin", ".pt") and size > 1 << 22:
                    for piece in range(64):
                        stream.seek(piece * size // 64)
                        digest.update(stream.read(1 << 16))
                else:
                    while block := stream.read(1 << 20):
                        digest.update(block)
    return digest.hexdigest()


def syntax(source: str) -> str:
    """The syntax tree of Python source as text, which depends neither on layout, comments and docstrings nor on the
    version of Python: it is what `ast.dump` of Python 3.11 prints, in which records have been written.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return _dump(tree)


def _dump(node: Any) -> str:
    if isinstance(node, list):
        return "[" + ", ".join(map(_dump, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = []
    for name, value in ast.iter_fields(node):
        left_out = value is None and getattr(type(node), name, ...) is None  # an optional part that is not there
        if isinstance(node, ast.JoinedStr):  # Python 3.12 ends some with an empty text
            value = [part for part in value if not (isinstance(part, ast.Constant) and part.value == "")]
        if not left_out and (name, value) != ("type_params", []):  # which Python 3.11 does not know
            fields.append(f"{name}={_dump(value)}")
    return f"{type(node).__name__}({', '.join(fields)})"


def named(path: str) -> list[Path]:
    """The local files that match a path, or a pattern in its last part."""
    file = Path(path)
    if "*" in file.name:
        return sorted(file.parent.glob(file.name))
    return [file] if file.is_file() else []
