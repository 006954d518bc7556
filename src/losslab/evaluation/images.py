"""Images of problems: their encoded bytes, as a benchmark is read, and what engines, endpoints and pages make of it."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from losslab.data.images import encoded, open_image

MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}  # that endpoints take
THUMBNAIL = 256  # pixels of its longer side at most
QUALITY = 60  # of its JPEG: some 5 KB for a diagram


def checked(value: Any, folder: Path) -> bytes:
    """The file behind a value of a row, once it is seen to hold an image. Raises Unusable, as `open_image` does."""
    open_image(value, folder)
    return encoded(value, folder)


def of_columns(row: Mapping[str, Any], columns: Sequence[str], folder: Path) -> tuple[bytes, ...]:
    """The images in columns of a row, of which each holds one, a list of them, or nothing. Raises Unusable."""
    values = [row[column] for column in columns]
    lists = [value if isinstance(value, list) else [value] for value in values if value not in (None, "")]
    return tuple(checked(value, folder) for values in lists for value in values)


def undecoded(table: Any) -> Any:
    """A table of `datasets` whose images stay files: their pixels would take many times the memory."""
    import datasets

    for name, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(name, datasets.Image(decode=False))
        elif isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image):
            table = table.cast_column(name, datasets.List(datasets.Image(decode=False)))
    return table


def opened(data: bytes) -> Image.Image:
    """The pixels of an encoded image, RGB."""
    return open_image(data, Path())


def data_url(data: bytes) -> str:
    """An encoded image as endpoints take it: in its own format where they know that, else as PNG."""
    with Image.open(io.BytesIO(data)) as image:
        mime = MIME.get(image.format or "")
    return _url(data, mime) if mime else _url(_as(opened(data), "PNG"), "image/png")


def thumbnail(data: bytes) -> str:
    """A data URL of a small JPEG."""
    image = opened(data)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return _url(_as(image, "JPEG", quality=QUALITY), "image/jpeg")


def _as(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def _url(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"
