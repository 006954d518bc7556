"""The images of examples as encoded files, kept beside the tokens; a rank decodes those of a step ahead of it."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np

from losslab.data.images import encoded

ARRAYS = ("offsets", "numbers", "starts")
FOLDER, DATA, FILES = "images", "images.bin", "files.json"  # of `Examples`; and within it


@dataclass(frozen=True)
class StoredImages:
    """Image k is the file `data[offsets[k]:offsets[k+1]]`; example i has those of `numbers[starts[i]:starts[i+1]]`."""

    data: np.ndarray  # (bytes,) uint8, each image once
    offsets: np.ndarray  # (images + 1,) int64
    numbers: np.ndarray  # (images of all examples,) int64
    starts: np.ndarray  # (examples + 1,) int64
    files: dict[str, list[int]]  # size and time of change of those that were files, in nanoseconds

    def of_example(self, i: int) -> list[bytes]:
        """The encoded images of an example, in the order of its tokens."""
        return [
            self.data[self.offsets[k] : self.offsets[k + 1]].tobytes()
            for k in self.numbers[self.starts[i] : self.starts[i + 1]]
        ]

    def select(self, chosen: Sequence[int]) -> "StoredImages":
        """Those of some examples, in their order."""
        parts = [self.numbers[self.starts[i] : self.starts[i + 1]] for i in chosen]
        starts = np.r_[0, np.cumsum([len(part) for part in parts])]
        return StoredImages(self.data, self.offsets, np.concatenate(parts), starts, self.files)

    @classmethod
    def write(cls, examples: Sequence[Sequence[Any]], folder: Path | None = None) -> "StoredImages":
        """Keep what stands for the images of examples, in the folder of `Examples`, else in a temporary file.

        Raises Unusable for an image that cannot be read, which tokenising has excluded.
        """
        if folder is not None:
            (folder / FOLDER).mkdir()
        with TemporaryFile() if folder is None else (folder / FOLDER / DATA).open("w+b") as stream:
            return cls._write(examples, stream)

    @classmethod
    def _write(cls, examples: Sequence[Sequence[Any]], stream: IO[bytes]) -> "StoredImages":
        places: dict[bytes, int] = {}  # by SHA-256
        numbers, starts, offsets = list[int](), [0], [0]
        files = dict[str, list[int]]()
        for images in examples:
            for value in images:
                if isinstance(value, str) and (file := Path(value)).is_file():
                    files[value] = _state(file)
                data = encoded(value, Path())
                name = hashlib.sha256(data).digest()
                if name not in places:
                    places[name] = len(places)
                    stream.write(data)
                    offsets.append(offsets[-1] + len(data))
                numbers.append(places[name])
            starts.append(len(numbers))
        stream.flush()
        arrays = {
            name: np.array(of, dtype=np.int64) for name, of in zip(ARRAYS, (offsets, numbers, starts), strict=True)
        }
        return cls(data=np.memmap(stream, mode="r", dtype=np.uint8), files=files, **arrays)

    def save(self, folder: Path) -> None:
        """Write into the folder of `Examples` what is not there yet."""
        folder = folder / FOLDER
        folder.mkdir(exist_ok=True)
        if not (folder / DATA).exists():
            self.data.tofile(folder / DATA)
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))
        (folder / FILES).write_text(json.dumps(self.files))

    @classmethod
    def load(cls, folder: Path) -> "StoredImages | None":
        """From the folder of `Examples`; None where its rows have no images."""
        folder = folder / FOLDER
        if not folder.exists():
            return None
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        files = json.loads((folder / FILES).read_text())
        return cls(data=np.memmap(folder / DATA, mode="r", dtype=np.uint8), files=files, **arrays)

    def check(self, folder: Path) -> None:
        """Raise ValueError where a file has changed since its image was put into `folder`; one may be gone."""
        for name, state in self.files.items():
            file = Path(name)
            if file.is_file() and _state(file) != state:
                raise ValueError(
                    f"the image {name} has changed since it was tokenised: remove {folder} to read it again"
                )


def digest(images: Iterable[Any]) -> bytes:
    """What tells the images of an example from others: the SHA-256 of each; of none, nothing."""
    return b"".join(hashlib.sha256(encoded(image, Path())).digest() for image in images)


def _state(file: Path) -> list[int]:
    about = file.stat()
    return [about.st_size, about.st_mtime_ns]
