"""LoRA adapters (a folder of peft) become whole checkpoints: merged into their base model once, and kept by content."""

import hashlib
import json
import shutil
from pathlib import Path

from losslab.config.messages import first_line
from losslab.files import appear, check_weights, content, lock

CONFIG = "adapter_config.json"


def base(path: str) -> tuple[str, str | None] | None:
    """The model that an adapter was trained on, a hub id or a folder, and its revision; None for any other path.

    Raises ValueError when the adapter names none, or one that is not there, or its own weights are pickled.
    """
    file = Path(path) / CONFIG
    if not file.is_file():
        return None
    weights = Path(path).glob("adapter_model.*")  # peft takes these alone, whatever else is there
    check_weights(f"the adapter {path}", (file.name for file in weights))
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        name, revision = str(about["base_model_name_or_path"]), about.get("revision")
    except (ValueError, KeyError):
        raise ValueError(f"{file} names no base model: add base_model_name_or_path") from None
    if (Path(name).is_absolute() or name.startswith(".")) and not Path(name).is_dir():
        raise ValueError(f"{file}: the base model {name} is no folder: correct base_model_name_or_path")
    return name, revision


def merged(path: str, cache: Path, trust_remote_code: bool = False) -> str:
    """The folder of the whole checkpoint behind an adapter; any other path is itself.

    The two are added up in float32 and written in the dtype that the base is published in, with the adapter's
    tokenizer where it has one, else the base's.

    Raises ValueError when the adapter or its base cannot be loaded, or is of a kind that cannot be merged.
    """
    found = base(path)
    if found is None:
        return path
    key = hashlib.sha256(json.dumps([content(path), content(found[0]), found[1]]).encode()).hexdigest()[:16]
    folder = cache / "merged" / key
    with lock(cache / "merged" / f"{key}.lock"):
        if not folder.exists():
            temporary = folder.with_name(f".{key}.writing")
            shutil.rmtree(temporary, ignore_errors=True)
            try:
                _merge(path, *found, temporary, trust_remote_code)
            except Exception as error:  # of many kinds, all of which mean this
                raise ValueError(f"the adapter {path} cannot be merged into {found[0]}: {first_line(error)}") from error
            appear(temporary, folder)
    return str(folder)


def _merge(adapter: str, base: str, revision: str | None, target: Path, trust_remote_code: bool) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source = {"revision": revision, "trust_remote_code": trust_remote_code}
    published = AutoConfig.from_pretrained(base, **source).dtype or torch.float32
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, use_safetensors=True, **source)
    whole = PeftModel.from_pretrained(model, adapter).merge_and_unload()  # type: ignore[operator]
    whole.to(published).save_pretrained(target)
    own = (Path(adapter) / "tokenizer_config.json").is_file()
    tokenizer = AutoTokenizer.from_pretrained(adapter) if own else AutoTokenizer.from_pretrained(base, **source)
    tokenizer.save_pretrained(target)
