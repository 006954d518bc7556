"""Hashes of what files hold, so that a file counts by its content and not by its name."""

import hashlib
from pathlib import Path

from losslab.config.schema import EMBEDDED, EMBEDDED_LARGE, EMBEDDED_VISION

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


def named(path: str) -> list[Path]:
    """The local files that match a path, or a pattern in its last part."""
    file = Path(path)
    if "*" in file.name:
        return sorted(file.parent.glob(file.name))
    return [file] if file.is_file() else []
