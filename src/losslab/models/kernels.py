"""Which GPUs the Triton kernels of `fused_loss_triton` are for."""

from functools import cache
from importlib import import_module
from types import ModuleType

import torch

from losslab.config.log import log
from losslab.distributed.environment import is_main_process
from losslab.models.compiler import can_compile, has_c_compiler


@cache
def kernels(device: torch.device) -> ModuleType | None:
    """The kernels, for the GPUs that have what they need: ROCm, and CUDA from compute capability 8.0.

    None where they cannot be compiled; a missing C compiler is announced.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] < 8:
        return None
    if not has_c_compiler() and is_main_process():
        log.warning(
            "no C compiler is installed here, so the loss is computed without its kernels and layers are not compiled, "
            "which is slower: install gcc"
        )
    return import_module("losslab.models.fused_loss_triton") if can_compile() else None
