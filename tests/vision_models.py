"""Tiny random vision-language models of two architectures, with processors, and small pictures."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from losslab.data import toy_task
from losslab.data.processors import of_images

IMAGE = "<|image_pad|>"
MARKS = ("<|vision_start|>", "<|vision_end|>", "<|video_pad|>")
# As of hub checkpoints, it reads lists of parts alone.
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.3, "tie_word_embeddings": False,
    "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None,
}  # fmt: skip


def qwen2_5_vl(folder: Path) -> Path:
    """Qwen2.5-VL with dynamic resolution: an image of 28 x 56 pixels is two tokens."""
    tokenizer = _tokenizer(f"<|vision_start|>{IMAGE}<|vision_end|>")
    names = ("image", "vision_start", "vision_end", "video")
    tokens = tokenizer.convert_tokens_to_ids([IMAGE, *MARKS])
    ids = {f"{name}_token_id": token for name, token in zip(names, tokens, strict=True)}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    config = Qwen2_5_VLConfig(
        text_config=TEXT | {"vocab_size": len(tokenizer), "rope_parameters": rope},
        vision_config={
            "depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32,
            "patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1], "initializer_range": 0.3,
        },
        **ids,
    )  # fmt: skip
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 12})
    kind = of_images(Qwen2_5_VLProcessor)  # as without torchvision
    processor = kind(images, tokenizer, chat_template=tokenizer.chat_template)
    return _saved(Qwen2_5_VLForConditionalGeneration, config, processor, folder)


def llava(folder: Path) -> Path:
    """LLaVA with a Qwen2 decoder: every image is cut to 28 x 28 pixels and four tokens."""
    tokenizer = _tokenizer(IMAGE)
    config = LlavaConfig(
        text_config=TEXT | {"model_type": "qwen2", "vocab_size": len(tokenizer)},
        vision_config=CLIPVisionConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28,
            patch_size=14, initializer_range=0.3,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=4,
    )  # fmt: skip
    side = {"height": 28, "width": 28}
    images = LlavaImageProcessorPil(size={"shortest_edge": 28}, crop_size=side)
    processor = LlavaProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template, image_token=IMAGE,
    )  # fmt: skip
    return _saved(LlavaForConditionalGeneration, config, processor, folder)


def picture(seed: int, width: int, height: int, form: str = "PNG") -> bytes:
    """An encoded picture of large random squares."""
    squares = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(squares).resize((width, height), Image.Resampling.NEAREST).save(stream, form)
    return stream.getvalue()


def _tokenizer(image: str) -> Any:
    tokenizer = toy_task.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE, *MARKS]})
    tokenizer.chat_template = TEMPLATE.replace("IMAGE", image)
    return tokenizer


def _saved(kind: Any, config: Any, processor: Any, folder: Path) -> Path:
    torch.manual_seed(0)
    kind(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
