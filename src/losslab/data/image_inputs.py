"""What the processor of a vision-language model makes of an image: tokens in a text, and arrays for the model."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from losslab.config.messages import first_line
from losslab.data.images import open_image
from losslab.data.messages import Unusable
from losslab.distributed.environment import available_cores

# What a processor says of the text; all else is of the images.
OF_TEXT = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "text_replacement_offsets"}


# From the token ids (1, L) of a sequence, their types (1, L) and the arrays of its images to positions (3, 1, L).
Positions = Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor]


@dataclass(frozen=True)
class ImageInputs:
    """A processor of transformers, and the model's rule for positions. Every image is processed alone."""

    processor: Any
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the processor's call, such as max_pixels
    positions: Positions | None = None  # None where tokens are counted, as in a text

    @property
    def template(self) -> str | None:
        """The chat template, which may write images where the tokenizer's own does not."""
        return self.processor.chat_template

    @property
    def placeholder(self) -> str:
        """What stands for an image in the text of the chat template."""
        return self.processor.image_token

    @cached_property
    def key(self) -> dict[str, Any]:
        """All that decides what becomes of an image."""
        settings = {k: v for k, v in vars(self.processor).items() if isinstance(v, int | str)}
        about = {"class": type(self.processor).__name__, "arguments": dict(self.arguments)}
        return about | {"images": self.processor.image_processor.to_dict(), **settings}

    def expansion(self, value: Any, folder: Path) -> str:
        """The text that takes the place of the placeholder of an image. Raises Unusable for a broken image."""
        (offsets,) = self._processed(open_image(value, folder))["text_replacement_offsets"]
        return offsets[0]["replacement"]

    def expand(self, text: str, expansions: Sequence[str]) -> tuple[str, list[tuple[int, int, int]]]:
        """A text of the chat template with the text of each image in the place of its placeholder.

        Also returns where each placeholder began and ended, and by how many characters the text behind it is longer.
        Raises Unusable where there are more placeholders than images, or fewer.
        """
        pieces = text.split(self.placeholder)
        if len(pieces) != len(expansions) + 1:
            raise Unusable(
                f"has {len(expansions)} images, and the chat template writes {len(pieces) - 1} times {self.placeholder}"
            )
        places, start, longer = [], 0, 0
        for piece, expansion in zip(pieces, expansions, strict=False):
            start += len(piece)
            longer += len(expansion) - len(self.placeholder)
            places.append((start, start + len(self.placeholder), longer))
            start += len(self.placeholder)
        parts = [part for pair in zip(pieces, expansions, strict=False) for part in pair]
        return "".join([*parts, pieces[-1]]), places

    def types(self, tokens: np.ndarray) -> np.ndarray:
        """(T,) int64 of token ids (T,): 1 where a token stands for a part of an image, else 0."""
        return np.isin(tokens, self.processor.image_token_ids).astype(np.int64)

    def arrays(self, images: Sequence[bytes]) -> list[dict[str, Tensor]]:
        """What the model reads of each encoded image, by the names of its arguments; images are processed at once."""
        if len(images) < 2:
            return [self._arrays(image) for image in images]
        with ThreadPoolExecutor(min(len(images), available_cores())) as threads:
            return list(threads.map(self._arrays, images))

    def _arrays(self, image: bytes) -> dict[str, Tensor]:
        made = self._processed(open_image(image, Path()))
        return {name: value for name, value in made.items() if name not in OF_TEXT}

    def _processed(self, image: Image.Image) -> Any:
        try:
            options = {"return_tensors": "pt", "return_text_replacement_offsets": True, **self.arguments}
            return self.processor(text=[self.placeholder], images=[image], **options)
        except Exception as error:  # of the family's own code, such as for an image of one pixel
            raise Unusable(f"has an image that the model's processor does not take ({first_line(error)})") from None


def joined(arrays: Sequence[Tensor]) -> Tensor:
    """Arrays of images one after another along the first dimension, the others padded with zeros to the largest."""
    sizes = [max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True)]
    padded = []
    for array in arrays:
        behind = [size - there for size, there in zip(sizes, array.shape[1:], strict=True)]
        pads = [side for size in reversed(behind) for side in (0, size)]
        padded.append(F.pad(array, pads) if any(behind) else array)
    return torch.cat(padded)
