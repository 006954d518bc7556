"""The embedded world's pictures: sums that are drawn, and a tiny Qwen2.5-VL that reads them, with nothing to download.

The sums and their answers are those of `losslab.data.toy_task`, of two digits, but the question does not say them: they
stand in a picture of 70 by 14 pixels, which the model reads as 5 tokens.

- `corpus` is what the base model is pre-trained on, its vision tower too: several wordings, the styles and the wrong
  steps of the toy task's corpus.
- `demonstrations` are what it is fine-tuned on: one style, two of the wordings, and a step is wrong with probability
  `toy_task.DEMONSTRATION_NOISE`.
- `problems` are the benchmarks: `tiny_picture` (the distribution of the demonstrations) and `tiny_picture_word` (a
  wording that they do not have). Their sums are in no training picture.

What it shows is what the sums of the toy task show: whether an objective learns the wrong steps of demonstrations.
Everything is a function of its arguments.
"""

from __future__ import annotations

import io
import random
from functools import cache
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from losslab.data import toy_task

if TYPE_CHECKING:  # a plan asks for the rows alone
    from transformers import Qwen2_5_VLConfig, Qwen2Tokenizer

CHARACTERS = 5  # of a text
CELL = 7  # dots of a character, in both directions; its glyph has at most 6 by 7
GLYPH_TOP = 2  # dots above a digit in the font
ZOOM = 2  # pixels of a dot
PATCH = CELL * ZOOM  # pixels of a patch, which is a token of the decoder

SIZES = (  # of the decoder, which are those of the toy task's model
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings", "tie_word_embeddings",
)  # fmt: skip
START, STOP, PAD, VIDEO = VISION = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}" + START + PAD + STOP + "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

PLAIN, ADD, SUM, WHAT = "=?", "Add.", "Sum?", "What is it?"
DIGITS = (2,)  # of an operand
PICTURES = {"tiny_picture": PLAIN, "tiny_picture_word": WHAT}  # benchmark: wording


def tokenizer() -> Qwen2Tokenizer:
    """That of the toy task, with the marks of images."""
    result = toy_task.tokenizer()
    result.add_special_tokens({"additional_special_tokens": [*toy_task.ROLES, *VISION]})
    result.chat_template = CHAT_TEMPLATE
    return result


def processor() -> Any:
    """What makes 5 tokens of a picture: a processor of Qwen2.5-VL, without its part for videos."""
    from transformers import Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from losslab.data.processors import of_images

    pixels = PATCH * PATCH * CHARACTERS
    size = {"shortest_edge": pixels, "longest_edge": pixels}
    images = Qwen2VLImageProcessorPil(size=size, patch_size=PATCH, merge_size=1, temporal_patch_size=1)
    return of_images(Qwen2_5_VLProcessor)(images, tokenizer(), chat_template=CHAT_TEMPLATE)


def model_config() -> Qwen2_5_VLConfig:
    """A Qwen2.5-VL of 297 thousand parameters: the decoder of the toy task's model, and a tower of two layers."""
    from transformers import Qwen2_5_VLConfig

    names = ("vocab_size", *SIZES, "initializer_range", "pad_token_id", "eos_token_id", "bos_token_id")
    of_sums = toy_task.model_config()
    text = {name: getattr(of_sums, name) for name in names}
    tokens = {token: text["vocab_size"] + i for i, token in enumerate(VISION)}
    rope = {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [8, 4, 4]}  # pairs for time, height, width
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 2,
        "out_hidden_size": text["hidden_size"],
        "patch_size": PATCH,
        "spatial_merge_size": 1,
        "temporal_patch_size": 1,
        "fullatt_block_indexes": [0, 1],  # in both layers every patch sees the whole picture
        "initializer_range": text["initializer_range"],
    }
    return Qwen2_5_VLConfig(
        text_config=text | {"vocab_size": text["vocab_size"] + len(VISION), "rope_parameters": rope},
        vision_config=vision,
        vision_start_token_id=tokens[START],
        vision_end_token_id=tokens[STOP],
        image_token_id=tokens[PAD],
        video_token_id=tokens[VIDEO],
        tie_word_embeddings=True,
    )


def corpus(rows: int, seed: int) -> list[dict[str, Any]]:
    """Rows {problem, image, solution, answer} for pre-training."""
    rng = random.Random(f"picture corpus {seed}")
    return [
        _row(
            rng.choice((PLAIN, ADD, SUM, WHAT)),
            rng.choices(toy_task.STYLES, toy_task.SHARES)[0],
            toy_task.CORPUS_NOISE,
            rng,
        )
        for _ in range(rows)
    ]


def demonstrations(rows: int, seed: int) -> list[dict[str, Any]]:
    """Rows {problem, image, solution, answer} for fine-tuning; the answer is right even if the solution is wrong."""
    rng = random.Random(f"picture demonstrations {seed}")
    return [_row(rng.choice((PLAIN, ADD)), toy_task.columns, toy_task.DEMONSTRATION_NOISE, rng) for _ in range(rows)]


def problems(name: str) -> list[dict[str, Any]]:
    """The rows {question, image, answer} of a benchmark, one of `PICTURES`, always the same."""
    rng = random.Random(f"problems {name}")
    pairs: dict[tuple[int, int], None] = {}  # an ordered set
    while len(pairs) < toy_task.PROBLEMS:
        pairs[toy_task.operands(DIGITS, True, rng)] = None
    return [{"question": PICTURES[name], "image": picture(f"{a}+{b}"), "answer": str(a + b)} for a, b in pairs]


@cache
def picture(text: str) -> bytes:
    """A text of up to five characters in black on white, as a file in the format PBM: the same bytes everywhere."""
    dots = Image.new("1", (CELL * CHARACTERS, CELL), 1)
    font, pen = ImageFont.load_default_imagefont(), ImageDraw.Draw(dots)
    for i, character in enumerate(text):
        pen.text((CELL * i + 1, -GLYPH_TOP), character, fill=0, font=font)
    stream = io.BytesIO()
    dots.resize((PATCH * CHARACTERS, PATCH), Image.Resampling.NEAREST).save(stream, "PPM")
    return stream.getvalue()


def _row(wording: str, style: toy_task.Style, noise: float, rng: random.Random) -> dict[str, Any]:
    a, b = toy_task.operands(DIGITS, False, rng)
    return {
        "problem": wording,
        "image": picture(f"{a}+{b}"),
        "solution": style(a, b, noise, rng),
        "answer": str(a + b),
    }
