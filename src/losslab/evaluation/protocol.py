"""The protocol of a folder's samples: every setting that affects them, so that one score has one protocol."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from losslab.config.prompt import PromptConfig
from losslab.config.schema import Config, Engine
from losslab.data.chat_templates import ChatTemplate
from losslab.evaluation.benchmarks import Benchmark
from losslab.files.atomic import write
from losslab.files.content import content


def describe(config: Config, model: str, tokenizer: Any, engine: Engine, chosen: list[Benchmark]) -> dict[str, Any]:
    """Every setting that affects the samples. A model behind an endpoint is given by its name, without a tokenizer."""
    cfg = config.eval
    texts, ids = stop_tokens(config, model, tokenizer) if tokenizer else (list(config.model.stop), [])
    arguments, sizes = config.model.template_arguments, config.model.image_arguments
    default = asdict(PromptConfig())
    asked = {k: v for k, v in asdict(config.prompt).items() if k != "template" and v != default[k]}
    return {
        "model": (config.machine.api_model or model) if config.served else model,
        "revision": source(config, model)["revision"],
        "weights": content(model) if Path(model).is_dir() and tokenizer else None,
        "engine": str(engine),
        "prompt": config.scoring_template,
        **({"question_and_examples": asked} if asked else {}),
        **({"template_arguments": arguments} if arguments else {}),
        **({"image_arguments": sizes} if sizes and tokenizer and any(b.images for b in chosen) else {}),
        "stop": texts,
        "stop_ids": ids,
        "temperature": cfg.temperature,
        "top_p": cfg.top_p,
        "max_new_tokens": cfg.max_new_tokens,
        "seed": config.seed if cfg.seed is None else cfg.seed,
        # One seed for each sample or one for the engine; an endpoint, which is no engine of ours, then has none.
        "seeds": "sample" if cfg.request_seeds else "none" if config.served and cfg.temperature else "engine",
        "benchmarks": {benchmark.name: benchmark.sha256 for benchmark in chosen},
    }


def source(config: Config, model: str) -> dict[str, Any]:
    """Revision and trust of a model's source; a pinned revision applies to the configured model alone."""
    revision = config.model.revision if model == config.model.path else None
    return {"revision": revision, "trust_remote_code": config.model.trust_remote_code}


def stop_tokens(config: Config, model: str, tokenizer: Any) -> tuple[list[str], list[int]]:
    """Texts and tokens that end a sample: the tokenizer's EOS, the EOS of the checkpoint's generation_config.json,
    `model.stop`, and, with a chat template, the end-of-turn token, which training on conversations teaches the model to
    emit.
    """
    from transformers import GenerationConfig

    texts, tokens = split_stops(config.model.stop, tokenizer)
    ids = {*tokens, tokenizer.eos_token_id}
    try:
        generation = GenerationConfig.from_pretrained(model, **source(config, model)).eos_token_id
    except OSError:  # not every checkpoint has one
        generation = None
    ids |= set(generation) if isinstance(generation, list) else {generation}
    if "chat" in (config.model.train_prompt, config.scoring_template) and tokenizer.chat_template:
        end = ChatTemplate(tokenizer, config.model.template_arguments).end
        _, turn_ends = split_stops([end] if end else [], tokenizer)
        ids |= set(turn_ends)
    return list(texts), sorted(ids - {None})


def split_stops(stop: Sequence[str], tokenizer: Any) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Splits stops into texts to search for and ids of single special tokens, which decoded text leaves out."""
    special = {str(token): i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    texts = tuple(text for text in stop if text not in special)
    return texts, tuple(special[text] for text in stop if text in special)


def agree(path: Path, protocol: dict[str, Any]) -> dict[str, Any]:
    """Write the protocol of a folder and return it; benchmarks may be added.

    Raises ValueError if the folder holds samples of another protocol.
    """
    if path.exists():
        before = yaml.safe_load(path.read_text())
        for name in before | protocol:
            then, value = before.get(name), protocol.get(name)
            if name == "benchmarks":
                same = all(then.get(key, sha) == sha for key, sha in protocol[name].items())
            elif name == "model":
                same = protocol["weights"] is not None or then == value
            else:
                same = then == value
            if not same:
                raise ValueError(
                    f"{path.parent} holds samples of another protocol ({name}: {then}, now {value}); "
                    "use another folder or remove this one"
                )
        protocol = {**protocol, "benchmarks": before["benchmarks"] | protocol["benchmarks"]}
    write(path, yaml.safe_dump(protocol, sort_keys=False, allow_unicode=True))
    return protocol
