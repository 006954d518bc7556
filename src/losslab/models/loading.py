"""What is on disk or on the hub: tokenizer, architecture and weights of a model, loaded or refused in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import transformers
from accelerate import init_empty_weights
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from losslab.config.log import log
from losslab.config.messages import first_line
from losslab.config.schema import EMBEDDED_LARGE, EMBEDDED_MODELS, EMBEDDED_VISION, ModelConfig
from losslab.data import toy_pictures, toy_task
from losslab.data.chat_templates import ChatTemplate
from losslab.data.hub_datasets import check_model
from losslab.data.prompts import check_tokenizer
from losslab.distributed.load_state import load_state
from losslab.distributed.process_group import barrier_at_end
from losslab.models import attention
from losslab.models.weight_files import folder_of, weight_files


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub id or folder, or the embedded one.

    Raises ValueError when there is none, it has no end, or it belongs to another model.
    """
    if model.path == EMBEDDED_VISION:
        return toy_pictures.tokenizer()
    if model.path in EMBEDDED_MODELS:
        return toy_task.tokenizer()
    tokenizer = _tokenizer(model)
    if unread := ChatTemplate(tokenizer, model.template_arguments).unread:
        _warn_once(f"{model.path}: {unread}")
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {model.path} has no EOS token, so no answer could ever end: set one")
    check_tokens(tokenizer.eos_token_id, tokenizer, model)
    return tokenizer


@cache
def _warn_once(sentence: str) -> None:
    """A process loads a tokenizer several times."""
    log.warning(sentence)


def _tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    check_model(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except Exception as error:
        raise ValueError(f"no tokenizer can be loaded from model.path={model.path}: {first_line(error)}") from error
    check_tokenizer(tokenizer, model.path)
    # Tokens that were added to it may stay unused, and so lie beyond the model's.
    check_tokens(tokenizer.vocab_size - 1, tokenizer, model)
    return tokenizer


def check_checkpoint(model: ModelConfig) -> None:
    """Refuse, with ValueError, a checkpoint whose weights, or whose tokenizer, are not those of its architecture.

    Of the weights that are read names and shapes alone are kept.
    """
    if model.path not in EMBEDDED_MODELS:
        _tokenizer(model)
        check_files(model)


def check_tokens(highest: int, tokenizer: PreTrainedTokenizerBase, model: ModelConfig) -> None:
    """Refuse, with ValueError, a token id of a tokenizer that the model has no embedding for."""
    rows = getattr(load_config(model).get_text_config(decoder=True), "vocab_size", None)
    if rows is not None and highest >= rows:
        raise ValueError(
            f"the tokenizer of {model.path} has the token {tokenizer.convert_ids_to_tokens(highest)!r} with the id "
            f"{highest}, and the model has {rows} embeddings: take the tokenizer that belongs to the model"
        )


def check_vocabulary(model: ModelConfig, reference: ModelConfig) -> None:
    """Refuse, with ValueError, a reference whose distributions are not over the tokens of the model.

    It must be of the same family too: training checks at its start how the model computes packed rows, and uses the
    result for both.
    """
    tokens, others = load_tokenizer(model).get_vocab(), load_tokenizer(reference).get_vocab()
    wrong = next((token for token, number in tokens.items() if others.get(token) != number), None)
    if wrong is not None:
        raise ValueError(
            f"reference.path={reference.path} has another vocabulary than the model, such as for {wrong!r}: choose a "
            "reference with the same tokenizer"
        )
    config, other = load_config(model), load_config(reference)
    rows, more = (c.get_text_config(decoder=True).vocab_size for c in (config, other))
    if more < rows:
        raise ValueError(
            f"reference.path={reference.path} has logits of {more} tokens and the model of {rows}: choose another"
        )
    if config.model_type != other.model_type:
        raise ValueError(
            f"reference.path={reference.path} is a {other.model_type} and the model a {config.model_type}: choose a "
            "reference of the same family"
        )


def load_config(model: ModelConfig) -> PretrainedConfig:
    """The architecture, without weights. Raises ValueError when it cannot be had."""
    if model.path == EMBEDDED_VISION:
        return toy_pictures.model_config()
    if model.path in EMBEDDED_MODELS:
        return toy_task.model_config(large=model.path == EMBEDDED_LARGE)
    check_model(model)
    try:
        return AutoConfig.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except Exception as error:
        raise ValueError(f"the model model.path={model.path} cannot be loaded: {first_line(error)}") from error


def auto_class(config: PretrainedConfig) -> Any:
    """The class of transformers that loads an architecture: a causal language model, or one that reads images too."""
    pictured = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING
    return AutoModelForImageTextToText if pictured else AutoModelForCausalLM


def load_model(model: ModelConfig, packed: bool = True) -> PreTrainedModel:
    """The model in float32 on the CPU; the embedded one with random weights.

    With `packed` its attention takes rows of whole sequences, where its family lets that be changed
    (`losslab.models.attention`). Raises ValueError when it cannot be loaded, or its files lack a weight of it, or hold
    one that it has no place for.
    """
    if model.path in EMBEDDED_MODELS:
        return _attend(auto_class(load_config(model)).from_config(load_config(model), dtype=torch.float32), packed)
    check_unquantised(model)
    loaded, report = _from_files(model)
    _check(report, model.path)
    return _attend(loaded, packed)


def check_unquantised(model: ModelConfig) -> None:
    """Refuse, with ValueError, weights that are codes of a quantisation: without their scales they are other numbers.

    MXFP4 is left to transformers, which turns it into bfloat16 where it has no kernels for it.
    """
    config = load_config(model)
    for part in (config, config.get_text_config(decoder=True)):
        about = getattr(part, "quantization_config", None) or {}
        method = str(about.get("quant_method", "") if isinstance(about, dict) else about.quant_method)
        if about and method != "mxfp4":
            raise ValueError(
                f"model.path={model.path} holds quantised weights ({method or 'of no named method'}), which can be "
                "scored and not trained: name a checkpoint in bfloat16"
            )


def check_files(model: ModelConfig) -> None:
    """Refuse, with ValueError, files that lack a weight of a model or hold one that it has no place for.

    Only names and shapes of the weights are kept.
    """
    if model.path not in EMBEDDED_MODELS:
        _check(_from_files(model, device_map="meta")[1], model.path)


def _from_files(model: ModelConfig, **options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model of a folder or of the hub in float32, and what transformers says of its loading."""
    kind = auto_class(load_config(model))
    try:
        with quiet():  # it would print a table of what `_check` says
            loaded: Any = kind.from_pretrained(
                model.path,
                revision=model.revision,
                trust_remote_code=model.trust_remote_code,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # `_check` names them
                **options,
            )
    except Exception as error:
        raise ValueError(f"the model model.path={model.path} cannot be loaded: {first_line(error)}") from error
    return loaded


def _check(report: dict[str, Any], path: str) -> None:
    mismatched = [f"{name} ({tuple(there)} for {tuple(wanted)})" for name, there, wanted in report["mismatched_keys"]]
    for problem, names in (
        ("lack weights of the model", sorted(report["missing_keys"])),
        ("hold weights of other shapes than the model's", sorted(mismatched)),
        ("hold weights that the model has no place for", sorted(report["unexpected_keys"])),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"the files of model.path={path} {problem}: {names[0]}{more}; take a whole checkpoint")


def _attend(model: PreTrainedModel, packed: bool) -> PreTrainedModel:
    """Give a model attention over packed rows; one whose family has its own code for attention stays as it is."""
    if packed:
        with quiet():
            attention.attend(model, attention.NAME)
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """transformers says nothing meanwhile but errors."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)


def structure(model: ModelConfig) -> PreTrainedModel:
    """The model without its weights: their names and shapes on the meta device, and the buffers that it computes."""
    check_unquantised(model)
    config = load_config(model)
    with init_empty_weights(include_buffers=False):
        empty = auto_class(config).from_config(config, dtype=torch.float32, trust_remote_code=model.trust_remote_code)
    _attend(empty, packed=True)
    if model.path in EMBEDDED_MODELS:
        return empty
    try:  # its stop tokens are exported too
        empty.generation_config = GenerationConfig.from_pretrained(model.path, revision=model.revision or "main")
    except OSError:  # not every checkpoint has one
        pass
    return empty


def fill(sharded: nn.Module, names: dict[str, str], model: ModelConfig) -> None:
    """Give a sharded model its weights, in place; `names` maps those of its parameters to the checkpoint's.

    Every rank reads its own shards. Where the files cannot be read so (names that transformers translates), rank 0
    reads the model and hands it out, so that a node never holds it once per rank. Called on every rank.
    """
    targets = {names[name]: value for name, value in sharded.state_dict().items() if name in names}
    # A configuration may name a file of its own, which transformers knows how to find.
    has_files = model.path not in EMBEDDED_MODELS and not getattr(load_config(model), "transformers_weights", None)
    if has_files and (files := weight_files(model)) and _read(targets, files, model):
        return
    with barrier_at_end():  # for what may be a download
        whole = load_model(model).state_dict() if dist.get_rank() == 0 else {}
        if lost := sorted(set(names.values()) - set(whole)) if whole else []:
            raise ValueError(
                f"the model model.path={model.path} is loaded without the weight {lost[0]}: name a whole checkpoint "
                "that is neither quantised nor an adapter"
            )
    mine = {name: whole[theirs] for name, theirs in names.items() if theirs in whole}
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)
    set_model_state_dict(sharded, mine, options=options)


def _read(targets: dict[str, Any], files: list[Path], model: ModelConfig) -> bool:
    """Read this rank's shards of the targets in place; returns whether the files hold all by these names."""
    with folder_of(files) as folder:
        stored = set(dcp.HuggingFaceStorageReader(folder).read_metadata().state_dict_metadata)
        if not set(targets) <= stored:
            return False
        if stored - set(targets) and dist.get_rank() == 0:  # such as a tied weight twice, or what is not known
            check_files(model)
        try:
            load_state(targets, storage_reader=dcp.HuggingFaceStorageReader(folder))
        except RuntimeError as error:
            raise ValueError(f"the model model.path={model.path} cannot be loaded: {error}") from error
    return True
