"""Where sequences start and end in a packed row."""

from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor


@dataclass  # not frozen: torch 2.11 reads all of a frozen one, and would compile a layer anew for each list of lengths
class Packing:
    """The boundaries of the sequences in a packed row of T tokens."""

    lengths: list[int]  # of each sequence, in order
    boundaries: Tensor  # (S + 1,) int32: 0, ..., T
    longest: int  # of the lengths

    @classmethod
    def of(cls, lengths: list[int]) -> "Packing":
        boundaries = np.cumsum([0, *lengths], dtype=np.int32)
        return cls(lengths, torch.from_numpy(boundaries), max(lengths))

    def owners(self) -> Tensor:
        """(1, T) int32: the index of each token's sequence, on the device of the boundaries."""
        row = torch.arange(sum(self.lengths), device=self.boundaries.device, dtype=torch.int32)
        return (torch.searchsorted(self.boundaries, row, right=True, out_int32=True) - 1)[None]

    def runs(self) -> list[tuple[int, int]]:
        """(count, length) of adjacent sequences of equal length, which attention can process as one batch."""
        return [(len(list(run)), length) for length, run in groupby(self.lengths)]
