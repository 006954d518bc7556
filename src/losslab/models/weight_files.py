"""The safetensors files of a checkpoint that hold its weights: those that transformers and vLLM read, and no others.

A folder may hold more, such as shards that were merged into one file, a copy in float16 or the original format.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import snapshot_download
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from losslab.config.schema import ModelConfig
from losslab.distributed.process_group import barrier_at_end
from losslab.files.json_files import read_json


def weight_files(model: ModelConfig) -> list[Path]:
    """The files of a model in a folder or on the hub, downloaded once per node; none where it has not all of them.

    Called on every rank.
    """
    folder = _with_files(model, [SAFE_WEIGHTS_NAME, "*.json"])
    whole, index = folder / SAFE_WEIGHTS_NAME, folder / SAFE_WEIGHTS_INDEX_NAME
    if whole.is_file():
        return [whole]
    if not index.is_file():
        return []
    names = sorted(set(read_json(index)["weight_map"].values()))
    folder = _with_files(model, names)
    files = [folder / name for name in names]
    return files if all(file.is_file() for file in files) else []


def _with_files(model: ModelConfig, patterns: list[str]) -> Path:
    """The folder of a model, with its files of these patterns."""
    if (folder := Path(model.path)).is_dir():
        return folder
    with barrier_at_end():
        if os.environ["LOCAL_RANK"] == "0":
            snapshot_download(model.path, revision=model.revision, allow_patterns=patterns)
    return Path(snapshot_download(model.path, revision=model.revision, allow_patterns=patterns, local_files_only=True))


@contextmanager
def folder_of(files: Sequence[Path]) -> Iterator[str]:
    """A folder with links to these files alone: torch's reader takes all safetensors files of a folder."""
    with TemporaryDirectory() as folder:
        for number, file in enumerate(files):
            (Path(folder) / f"{number}.safetensors").symlink_to(file.resolve())
        yield folder
