"""Tiny random models that read images, with processor and tokenizer, and rows with drawn images."""

import json
from copy import copy
from pathlib import Path

import torch
from families import bytes_level
from PIL import Image, ImageDraw
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPImageProcessorPil,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    LlavaProcessor,
    Qwen2VLImageProcessorPil,
)

TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "tie_word_embeddings": False,
}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
QWEN_TOWER = {
    "depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2,
}  # fmt: skip
TOWER = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
SPECIAL += ["<|video_pad|>", "<boi>", "<eoi>", "<soft>", "<image>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{{ 'IMAGE' if c.type == 'image' else c.text }}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN = "<|vision_start|><|image_pad|><|vision_end|>"
PLACEHOLDERS = {"llava": "<image>\n", "gemma3": "<boi>"}  # of other families
FAMILIES = ["qwen2_5_vl", "qwen2_vl", "qwen3_vl", "llava", "gemma3"]


def tokenizer(family: str):
    written = PLACEHOLDERS.get(family, QWEN)
    extra = {"image_token": "<soft>", "boi_token": "<boi>", "eoi_token": "<eoi>"} if family == "gemma3" else {}
    template = TEMPLATE.replace("IMAGE", written.replace("\n", "\\n"))
    return bytes_level(template, SPECIAL, eos_token="<|im_end|>", extra_special_tokens=extra)


def configuration(family: str):
    known = tokenizer(family)
    special = {token: known.convert_tokens_to_ids(token) for token in SPECIAL}
    text = TEXT | {"vocab_size": len(known), "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 2}
    if family == "llava":
        vision = TOWER | {"model_type": "clip_vision_model"}
        return AutoConfig.for_model(
            family, text_config=text | {"model_type": "llama"}, vision_config=vision, vision_feature_layer=-2,
            image_token_index=special["<image>"], image_seq_length=4,
        )  # fmt: skip
    if family == "gemma3":
        text |= {"sliding_window": 64, "query_pre_attn_scalar": 8}
        ids = {f"{name}_token_index": special[f"<{token}>"] for name, token in (("boi", "boi"), ("eoi", "eoi"))}
        return AutoConfig.for_model(
            family, text_config=text, vision_config=TOWER, mm_tokens_per_image=4,
            image_token_index=special["<soft>"], image_token_id=special["<soft>"], **ids,
        )  # fmt: skip
    if family == "qwen2_vl":
        vision = QWEN_TOWER | {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
    else:
        vision = QWEN_TOWER | {"hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 24}
    if family == "qwen2_5_vl":
        vision |= {"window_size": 16, "fullatt_block_indexes": [1]}
    if family == "qwen3_vl":
        vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
    ids = {f"{name}_token_id": special[f"<|{name}_pad|>"] for name in ("image", "video")}
    ids |= {f"vision_{name}_token_id": special[f"<|vision_{name}|>"] for name in ("start", "end")}
    rope = {"rope_parameters": ROPE}
    return AutoConfig.for_model(family, text_config=text | rope, vision_config=vision, tie_word_embeddings=False, **ids)


def make(family: str):
    """A model in float32, with weights so large that what a layer does shows."""
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(configuration(family), dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(3)
    return model


def write_checkpoint(family: str, folder: Path) -> Path:
    """Model, tokenizer and processor as they would lie on the hub."""
    make(family).save_pretrained(folder)
    return write_processor(family, folder)


def write_processor(family: str, folder: Path) -> Path:
    """The same without the weights."""
    configuration(family).save_pretrained(folder)
    known = tokenizer(family)
    if family == "llava":
        images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
        LlavaProcessor(
            images, known, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
            chat_template=known.chat_template,
        ).save_pretrained(folder)  # fmt: skip
    elif family == "gemma3":
        images = Gemma3ImageProcessorPil(size={"height": 28, "width": 28})
        Gemma3Processor(images, known, image_seq_length=4, chat_template=known.chat_template).save_pretrained(folder)
    else:
        size = {"shortest_edge": 64, "longest_edge": 64 * 16}
        Qwen2VLImageProcessorPil(size=size, patch_size=4, merge_size=2).save_pretrained(folder)
        known.save_pretrained(folder)
    return folder


def with_template(processor, template: str):
    """The processor with another chat template."""
    changed = copy(processor)
    changed.chat_template = template
    return changed


def placeholder(processor) -> str:
    """What the chat template writes for an image."""
    return next((PLACEHOLDERS[family] for family in PLACEHOLDERS if family in type(processor).__name__.lower()), QWEN)


def draw(text: str, width: int = 40, height: int = 24) -> Image.Image:
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).text((3, 6), text, fill="black")
    return image


def write_rows(folder: Path, count: int = 6) -> Path:
    """Questions about drawn sums, some with two images, one with none, of different sizes and lengths."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(count):
        names = [f"{i}-{k}.png" for k in range((1, 2, 0)[i % 3])]
        for k, name in enumerate(names):
            draw(f"{i}+{k}", 24 + 8 * i, 16 + 8 * k).save(folder / name)
        places = " and ".join(["<image>"] * len(names)) or "nothing"
        lines.append({"question": f"What is {places}?", "answer": f"It is {i}. " * (1 + i % 3), "images": names})
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "rows.jsonl"
