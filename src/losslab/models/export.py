"""A trained policy as a checkpoint in Hugging Face format."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME

from losslab.distributed.process_group import barrier_at_end
from losslab.files.atomic import whole
from losslab.models import lora
from losslab.models.policy import Policy, own_names
from losslab.models.processors import write_processor


def export(policy: Policy, tokenizer: PreTrainedTokenizerBase, folder: Path, ends: Sequence[int]) -> None:
    """Write the model in Hugging Face format, adapters merged, in the dtypes it was published in, with its tokenizer.

    `ends` are the tokens by which it was trained to end an answer: its generation config has them too, so that whoever
    loads it stops there. The folder appears whole. Called on every rank.
    """
    model = policy.model
    state: dict[str, Any] = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    with barrier_at_end():  # a slow disk may take longer than a training step is given
        if dist.get_rank() == 0:
            if policy.adapters.rank:
                state = lora.merged(state, model, policy.adapters)
            _write(policy, state, tokenizer, folder, ends)


def _write(
    policy: Policy, state: dict[str, Any], tokenizer: PreTrainedTokenizerBase, folder: Path, ends: Sequence[int]
) -> None:
    model = policy.model
    names = {name.replace(lora.BASE, "") for name in own_names(model)}
    # Buffers, such as the biases of a router, stay as they are held: in float32, whatever the weights are.
    buffers = {name.replace(lora.WRAPPED, "").replace(lora.BASE, "") for name, _ in model.named_buffers()}
    weights = {
        name: value if name in buffers else value.to(published_dtype(name, model, policy.published))
        for name, value in state.items()
        if name in names
    }
    generation, model.generation_config = with_ends(model, ends), GenerationConfig()  # which is always valid
    with whole(folder) as temporary:
        model.save_pretrained(temporary, state_dict=weights)
        model.config.dtype = policy.published  # save_pretrained put down that of the masters
        model.config.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        if policy.source is not None:
            write_processor(policy.source, temporary)
        generation.to_json_file(temporary / GENERATION_CONFIG_NAME)
    model.generation_config = generation


def published_dtype(name: str, model: PreTrainedModel, published: torch.dtype) -> torch.dtype:
    """The dtype of a parameter on disk: that of the checkpoint, but float32 where transformers keeps it so."""
    return torch.float32 if any(kept in name for kept in model._keep_in_fp32_modules_strict or ()) else published


def with_ends(model: PreTrainedModel, ends: Sequence[int]) -> GenerationConfig:
    """The generation config of a model, as it was published, with these tokens among those that end an answer."""
    config = deepcopy(model.generation_config)
    published = config.eos_token_id if config.eos_token_id is not None else model.config.get_text_config().eos_token_id
    stops = published if isinstance(published, list) else [] if published is None else [published]
    if not set(ends) <= set(stops):
        config.eos_token_id = [*stops, *sorted(set(ends) - set(stops))]
    return config
