"""Mixed precision on one GPU without sharding, instead of FSDP2's casts, copies and hooks for every layer.

The modules hold float32 master weights between steps, which are all that optimizer, checkpoints and export see. Forward
and backward use copies in the dtype of the computation; the gradient of each copy is added to the float32 gradient of
its master as soon as it is computed.
"""

import torch
from torch import Tensor, nn

from losslab.models.kernels import kernels


class ComputeWeights:
    """Copies of a module's weights in `dtype`, except of weights that have this dtype already."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        copies: dict[nn.Parameter, nn.Parameter] = {}  # by master: a tied weight has one
        self.slots: list[tuple[nn.Module, str, nn.Parameter, nn.Parameter]] = []
        for part in module.modules():
            for name, master in part._parameters.items():
                if master is None or master.dtype == dtype:
                    continue
                if master not in copies:
                    copies[master] = nn.Parameter(torch.empty_like(master, dtype=dtype), master.requires_grad)
                self.slots.append((part, name, master, copies[master]))
        self.masters: list[Tensor] = list(copies)
        self.copies: list[Tensor] = list(copies.values())
        for master, copy in copies.items():
            if master.requires_grad:
                copy.register_post_accumulate_grad_hook(_Accumulate(master))
        self.versions: list[int] = []  # of the masters when they were copied

    def enter(self) -> None:
        """Put the copies into the modules, after updating them if a master has another version."""
        versions = [master._version for master in self.masters]
        if versions != self.versions:
            with torch.no_grad():
                torch._foreach_copy_(self.copies, self.masters)
            self.versions = versions
        for part, name, _, copy in self.slots:
            part._parameters[name] = copy

    def leave(self) -> None:
        """Put the masters back."""
        for part, name, master, _ in self.slots:
            part._parameters[name] = master


class _Accumulate:
    """Adds the gradient of a copy to that of its master. Torch's own sum of two dtypes runs at half of the memory's
    speed on a GPU.
    """

    def __init__(self, master: nn.Parameter) -> None:
        self.master = master
        self.fits_kernel = master.dtype == torch.float32 and master.is_contiguous()

    def __call__(self, copy: Tensor) -> None:
        gradient, copy.grad = copy.grad, None
        assert gradient is not None
        total = self.master.grad
        if (module := kernels(gradient.device)) is not None and self.fits_kernel:
            if first := total is None:
                total = self.master.grad = torch.empty_like(self.master)
            module.accumulate(total, gradient, add=not first)
        elif total is None:
            self.master.grad = gradient.to(self.master.dtype)
        else:
            total += gradient
