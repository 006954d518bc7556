"""Examples whose images a model reads: their processor, and the model's own rule for positions."""

import inspect
from dataclasses import replace

from torch import Tensor
from transformers import PreTrainedModel

from losslab.config.schema import ModelConfig
from losslab.data.examples import Examples
from losslab.data.image_inputs import Positions
from losslab.models.decoder import body
from losslab.models.processors import image_inputs


def readable(examples: Examples, model: ModelConfig, loaded: PreTrainedModel) -> Examples:
    """The examples with the processor of `model` and the positions of `loaded`; unchanged if they have no images.

    Raises ValueError for images that the model does not read.
    """
    if examples.images is None:
        return examples
    inputs = image_inputs(model)
    if inputs is None or "pixel_values" not in inspect.signature(body(loaded).forward).parameters:
        raise ValueError(
            f"the data have images, and {type(loaded).__name__} of model.path={model.path} reads none: choose a "
            "vision-language model"
        )
    return replace(examples, image_inputs=replace(inputs, positions=positions(loaded)))


def positions(model: PreTrainedModel) -> Positions | None:
    """The rule of a model whose positions follow the axes of an image (M-RoPE, arXiv 2409.12191), None for others.

    It reads the model's configuration alone, so that a thread may ask it ahead of a step.
    """
    rule = getattr(body(model), "get_rope_index", None)
    if rule is None:
        return None
    asked = inspect.signature(rule).parameters

    def of_sequence(tokens: Tensor, types: Tensor, arrays: dict[str, Tensor]) -> Tensor:
        given = {"mm_token_type_ids": types} | arrays
        return rule(input_ids=tokens, **{name: value for name, value in given.items() if name in asked})[0]

    return of_sequence
