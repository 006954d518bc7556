"""Loads tensors from torch's distributed checkpoints, or from safetensors files through torch's reader."""

from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException


def load_state(state: dict[str, Any], **source: Any) -> None:
    """Fill the tensors of `state` in place by `torch.distributed.checkpoint.load`.

    Raises RuntimeError with the last line of what torch raises: its CheckpointException derives from BaseException,
    which no handler of failures would record.
    """
    try:
        dcp.load(state, **source)
    except CheckpointException as error:
        raise RuntimeError(last_line(error)) from error


def last_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
