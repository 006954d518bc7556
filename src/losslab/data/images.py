"""Images of rows: whatever stands for one becomes a PIL image, and texts with images become parts of a message.

For training and evaluation alike:

    open_image(value, folder)   the image behind a value of a row, RGB, decoded
    parts(text, images)         content of a message: [{"type": "image", "image": value}, {"type": "text", "text": ...}]
    images_of(messages)         the values of all image parts, in their order
    encoded(value, folder)      the image as the bytes of a file, to be kept

A value is what a row holds: a path, bytes, {"bytes", "path"} as the Image feature of `datasets` stores it, a `data:`
URL, or a PIL image. It stays as it is in a message, and `open_image` is called where the pixels are needed.
"""

import base64
import binascii
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from losslab.config.messages import first_line
from losslab.data.messages import Unusable

PLACEHOLDER = "<image>"  # where an image stands in a text, as LLaVA's and most later data sets write it
WHITE = (255, 255, 255)
URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.I)
DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.I)
REPEATED = re.compile(r"(<[^<>\s]+>)\1{2,}")
FILE = re.compile(r"\.(png|jpe?g|webp|gif|bmp|tiff?)$", re.I)
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV")  # of 8 bits a channel, at most


def open_image(value: Any, folder: Path) -> Image.Image:
    """The image behind a value, mode RGB, upright and decoded; what is transparent in it becomes white.

    A path is relative to `folder`, that of the data's file. Raises Unusable, whose text follows on the place of the
    row (`rows.jsonl:3 has an image a.png that is not there`), for one that cannot be read, and for a URL.
    """
    source, name = _source(value, folder)
    try:
        image = source if isinstance(source, Image.Image) else Image.open(source)
        image = ImageOps.exif_transpose(image)
        image.load()
    except FileNotFoundError:
        raise Unusable(f"has an image {name} that is not there") from None
    except Exception as error:  # of as many kinds as there are formats and faults
        raise Unusable(f"has an image {name} that cannot be decoded ({_reason(error)})") from None
    if image.mode not in MODES:
        raise Unusable(f"has an image {name} of mode {image.mode}: save it with 8 bits a channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (*WHITE, 255))
        image = Image.alpha_composite(ground, image)
    return image.convert("RGB")


def parts(text: str, images: Sequence[Any]) -> list[dict[str, Any]]:
    """A text with its images as the content of a message, which chat templates take.

    Each image takes the place of a `<image>` in the text, in their order; without any they come before it. Raises
    Unusable where there are some, but not as many as images.
    """
    pieces = text.split(PLACEHOLDER)
    if len(pieces) == 1:
        return [*map(image_part, images), text_part(text)]
    if len(pieces) != len(images) + 1:
        raise Unusable(f"has {len(images)} images for {len(pieces) - 1} {PLACEHOLDER} in its text")
    content = [text_part(pieces[0])]
    for image, piece in zip(images, pieces[1:], strict=True):
        content += [image_part(image), text_part(piece)]
    return [part for part in content if part["type"] == "image" or part["text"]]


def image_part(value: Any) -> dict[str, Any]:
    return {"type": "image", "image": value}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def place(messages: Sequence[Mapping[str, Any]], images: Sequence[Any]) -> list[dict[str, Any]]:
    """The messages of a conversation with images that stand beside it.

    They take the places of `<image>` in the texts of those who ask, and of image parts without a value, in their order;
    where there are neither, they come before the first question. Raises Unusable where there are not as many places.
    """
    asked = [i for i, message in enumerate(messages) if message["role"] != "assistant"]
    slots = {i: _slots(messages[i]["content"]) for i in asked}
    if images and not any(slots.values()):
        questions = [i for i in asked if messages[i]["role"] == "user"]
        if not questions:
            raise Unusable("has images, and no one asks about them")
        slots[questions[0]] = len(images)
    if sum(slots.values()) != len(images):
        raise Unusable(f"has {len(images)} images for {sum(slots.values())} places in its messages")
    left = iter(images)
    return [
        {**message, "content": _filled(message["content"], [next(left) for _ in range(slots.get(i, 0))])}
        for i, message in enumerate(messages)
    ]


def resolved(messages: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The messages with paths of images made absolute. Raises Unusable for an image part without a value."""
    return [
        {**message, "content": [_resolved(part, folder) for part in message["content"]]}
        if isinstance(message["content"], list)
        else {**message}
        for message in messages
    ]


def encoded(value: Any, folder: Path) -> bytes:
    """An image as the bytes of a file: those that there are, or PNG. Raises Unusable as `open_image` does."""
    source, name = _source(value, folder)
    if isinstance(source, io.BytesIO):
        return source.getvalue()
    if isinstance(source, Image.Image):
        stream = io.BytesIO()
        source.save(stream, "PNG")
        return stream.getvalue()
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise Unusable(f"has an image {name} that cannot be read ({error.strerror})") from None


def images_of(messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The values of all image parts of a conversation, in the order in which a chat template writes them."""
    contents = [message["content"] for message in messages if isinstance(message["content"], list)]
    return [part["image"] for content in contents for part in content if part["type"] == "image"]


def shortened(text: str) -> str:
    """A text to be shown, in which a token of an image stands once with how often it comes: <|image_pad|>×752."""
    return REPEATED.sub(lambda match: f"{match[1]}×{len(match[0]) // len(match[1])}", text)


def looks_like_images(value: Any) -> bool:
    """Whether a value of a column stands for an image, or for a list of them; a text does where it ends as files do."""
    first = value[0] if isinstance(value, list) and value else value
    return is_image(first) or (isinstance(first, str) and bool(DATA_URL.match(first) or FILE.search(first.strip())))


def is_image(value: Any) -> bool:
    """Whether a value can only be an image; a path is a text like any other."""
    if isinstance(value, bytes | Image.Image):
        return True
    return isinstance(value, Mapping) and bool(value) and set(value) <= {"bytes", "path"}


def _slots(content: Any) -> int:
    """How many images are missing in the content of a message."""
    if isinstance(content, str):
        return content.count(PLACEHOLDER)
    return sum(part["type"] == "image" and "image" not in part for part in content)


def _filled(content: Any, images: list[Any]) -> Any:
    if not images:
        return content
    if isinstance(content, str):
        return parts(content, images)
    if not _slots(content):
        return [*map(image_part, images), *content]
    left = iter(images)
    return [image_part(next(left)) if part["type"] == "image" and "image" not in part else part for part in content]


def _resolved(part: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    if part["type"] != "image":
        return part
    if "image" not in part:
        raise Unusable("has an image part without an image: give it one, or set dataset.images_column")
    value = part["image"]
    if isinstance(value, Mapping) and value.get("bytes") is None:
        value = value.get("path")
    path = isinstance(value, str) and not URL.match(value) and not DATA_URL.match(value)
    return image_part(str(folder.absolute() / value) if path and value.strip() else value)


def _source(value: Any, folder: Path) -> tuple[Any, str]:
    """What PIL opens, and the name of it in a message."""
    if isinstance(value, Image.Image):
        return value, "of its row"
    if isinstance(value, Mapping):
        name = str(value.get("path") or "of its row")
        data = value.get("bytes")
        return (io.BytesIO(data), name) if data is not None else _source(value.get("path"), folder)
    if isinstance(value, bytes):
        return io.BytesIO(value), "of its row"
    if not isinstance(value, str) or not value.strip():
        raise Unusable(f"has {'nothing' if not value else f'a {type(value).__name__}'} in the place of an image")
    if match := DATA_URL.match(value):
        try:
            return io.BytesIO(base64.b64decode(value[match.end() :], validate=True)), f"{match[0]}…"
        except binascii.Error:
            raise Unusable(f"has an image {match[0]}… that is not base64") from None
    if URL.match(value):
        raise Unusable(f"has an image at the URL {value}, which is not loaded: download it and write its path")
    return folder / value, value


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is of no known format"
    return first_line(error)
