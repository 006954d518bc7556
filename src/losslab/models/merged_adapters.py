"""Merges LoRA adapters (folders of peft) into their base models, and caches the resulting checkpoints by content."""

import hashlib
import json
from pathlib import Path
from typing import Any

from losslab.config.messages import first_line, under_key
from losslab.config.schema import ModelConfig
from losslab.data.hub_datasets import refuse_pickled_weights
from losslab.files.content import content
from losslab.files.locks import cached

BASE = "base_model_name_or_path"  # the key of the base in CONFIG
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
EMBEDDINGS = {"embed_tokens", "lm_head", "wte"}  # modules that an adapter holds whole where it has tokens of its own


def base(path: str) -> tuple[str, str | None] | None:
    """The base model of an adapter, a hub id or a folder, and its revision; None if the path is not an adapter.

    Raises ValueError if the adapter names no base model or a missing one, or if its weights are pickled.
    """
    file = Path(path) / CONFIG
    if not file.is_file():
        return None
    weights = Path(path).glob("adapter_model.*")  # the only files that peft reads
    refuse_pickled_weights(f"the adapter {path}", (file.name for file in weights))
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        name, revision = str(about[BASE]), about.get("revision")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{file} names no base model: add {BASE}") from None
    if (Path(name).is_absolute() or name.startswith(".")) and not Path(name).is_dir():
        raise ValueError(f"{file}: the base model {name} does not exist: correct {BASE}")
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():  # before all files in it are hashed
        raise ValueError(f"{file}: the base model {name} has no config.json: correct {BASE}")
    return name, revision


def merged(path: str, cache: Path, trust_remote_code: bool = False) -> str:
    """The folder of the checkpoint merged from an adapter; any other path is returned unchanged.

    The weights are merged in float32 and written in the dtype of the base's configuration, with the adapter's tokenizer
    if it has one, else the base's.

    Raises ValueError if the adapter or its base cannot be loaded, or cannot be merged.
    """
    source = base(path)
    if source is None:
        return path
    key = hashlib.sha256(json.dumps([content(path), content(source[0]), source[1]]).encode()).hexdigest()[:16]

    def make(folder: Path) -> None:
        try:
            with under_key(BASE):
                _merge(path, *source, folder, trust_remote_code)
        except Exception as error:  # many kinds, all of which mean this
            raise ValueError(f"the adapter {path} cannot be merged into {source[0]}: {first_line(error)}") from error

    return str(cached(cache / "merged" / key, make))


def _merge(adapter: str, base: str, revision: str | None, target: Path, trust_remote_code: bool) -> None:
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    from losslab.models.export import published_dtype
    from losslab.models.loading import load_config, load_model
    from losslab.models.processors import write_processor

    model = ModelConfig(path=base, revision=revision, trust_remote_code=trust_remote_code)
    source = {"revision": revision, "trust_remote_code": trust_remote_code}
    published = load_config(model).dtype or torch.float32
    assert isinstance(published, torch.dtype)
    with_adapter = (Path(adapter) / "tokenizer_config.json").is_file()
    tokenizer = (
        AutoTokenizer.from_pretrained(adapter) if with_adapter else AutoTokenizer.from_pretrained(base, **source)
    )
    whole, stored = load_model(model, packed=False), load_file(Path(adapter) / WEIGHTS)
    embeddings = {name for name in stored if set(name.split(".")) & EMBEDDINGS and ".lora_" not in name}
    rows = {len(stored[name]) for name in embeddings}
    if len(rows) == 1:  # tokens may have been added for the adapter
        whole.resize_token_embeddings(rows.pop())
    adapted = PeftModel.from_pretrained(whole, adapter)
    expected = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    for problem, names in (
        ("it lacks weights that its adapter_config.json declares", expected - set(stored)),
        ("it has weights that do not fit the base", set(stored) - expected - embeddings),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"{problem} ({min(names)}{more})")
    plain: Any = adapted.merge_and_unload()  # type: ignore[operator]
    for name, parameter in plain.named_parameters():  # but not buffers: see `export`
        parameter.data = parameter.data.to(published_dtype(name, plain, published))
    plain.save_pretrained(target)
    tokenizer.save_pretrained(target)
    write_processor(model, target)
