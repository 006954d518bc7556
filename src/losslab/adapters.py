"""LoRA adapters (a folder of peft) become whole checkpoints: merged into their base model once, and kept by content."""

import hashlib
import json
import shutil
from pathlib import Path

from losslab.files import content, lock
from losslab.messages import first_line

CONFIG = "adapter_config.json"


def merged(path: str, cache: Path, trust_remote_code: bool = False) -> str:
    """The folder of the whole checkpoint behind an adapter; any other path is itself.

    The base model is the one that the adapter names, a hub id or a folder. Both are added up in float32 and written in
    the dtype that the base is published in, with the adapter's tokenizer where it has one, else the base's.

    Raises:
        ValueError: the adapter or its base cannot be loaded, or it is of a kind that cannot be merged.
    """
    adapter = Path(path)
    if not (adapter / CONFIG).is_file():
        return path
    try:
        about = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
        base, revision = about["base_model_name_or_path"], about.get("revision")
    except (ValueError, KeyError):
        raise ValueError(f"{adapter / CONFIG} names no base model: add base_model_name_or_path") from None
    key = hashlib.sha256(json.dumps([content(path), content(base), revision]).encode()).hexdigest()[:16]
    folder = cache / "merged" / key
    with lock(cache / "merged" / f"{key}.lock"):
        if not folder.exists():
            temporary = folder.with_name(f".{key}.writing")
            shutil.rmtree(temporary, ignore_errors=True)
            try:
                _merge(adapter, base, revision, temporary, trust_remote_code)
            except Exception as error:  # of many kinds, all of which mean this
                raise ValueError(f"the adapter {path} cannot be merged into {base}: {first_line(error)}") from error
            temporary.rename(folder)
    return str(folder)


def _merge(adapter: Path, base: str, revision: str | None, target: Path, trust_remote_code: bool) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source = {"revision": revision, "trust_remote_code": trust_remote_code}
    published = AutoConfig.from_pretrained(base, **source).dtype or torch.float32
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **source)
    whole = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()  # type: ignore[operator]
    whole.to(published).save_pretrained(target)
    own = (adapter / "tokenizer_config.json").is_file()
    tokenizer = AutoTokenizer.from_pretrained(str(adapter) if own else base, **({} if own else source))
    tokenizer.save_pretrained(target)
