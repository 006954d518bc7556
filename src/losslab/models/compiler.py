"""Whether kernels for a GPU can be compiled here. Does not import torch, since the plan uses it."""

import importlib.util
import os
import shutil


def can_compile() -> bool:
    """Whether Triton can, our kernels and those of torch.compile."""
    return importlib.util.find_spec("triton") is not None and has_c_compiler()


def has_c_compiler() -> bool:
    """Whether there is one that Triton would take: it builds a launcher for each kernel with it."""
    return "CC" in os.environ or any(map(shutil.which, ("gcc", "clang")))
