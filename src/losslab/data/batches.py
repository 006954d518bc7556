"""From examples to the micro-batches of a step.

A step's sequences are spread over the ranks and laid one after another in rows without padding; attention keeps them
apart (`losslab.models.attention`), so that the result does not depend on the grouping.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from losslab.data.examples import Examples
from losslab.data.image_inputs import joined
from losslab.data.packing import Packing


@dataclass(frozen=True)
class Images:
    """What a model reads of the images of a row of T tokens, one after another in the order of its sequences."""

    arrays: dict[str, Tensor]  # by the model's name of the argument, such as pixel_values
    counts: dict[str, list[int]]  # of each array, how much of its first dimension belongs to each sequence
    types: Tensor  # (1, T) int64: 1 where a token stands for a part of an image, else 0

    def of(self, start: int, stop: int) -> dict[str, Tensor]:
        """The arrays of the sequences from `start` to `stop`; none where they have no image."""
        places = {name: (sum(counts[:start]), sum(counts[:stop])) for name, counts in self.counts.items()}
        if all(begin == end for begin, end in places.values()):
            return {}
        return {name: self.arrays[name][begin:end] for name, (begin, end) in places.items()}


@dataclass(frozen=True)
class Batch:
    """One micro-batch: S whole sequences in a row of T tokens, with N answer tokens in all."""

    tokens: Tensor  # (1, T) int64
    # (1, T) int64, from 0 in each sequence; (3, 1, T) where a model has one for each axis of an image
    positions: Tensor
    packing: Packing  # where each sequence lies
    predictors: Tensor  # (N,) int64: the index in the row from which each answer token is predicted
    targets: Tensor  # (N,) int64: the answer tokens
    sequence: Tensor  # (N,) int64 in [0, S): the sequence of each answer token
    images: Images | None = None

    def to(self, device: torch.device) -> "Batch":
        """On a device; the host does not wait for the copy where the memory is pinned."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        return self._map(Tensor.pin_memory)

    def _map(self, move: Callable[[Tensor], Tensor]) -> "Batch":
        moved: dict[str, Any] = {name: move(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        if self.images is not None:
            arrays = {name: move(value) for name, value in self.images.arrays.items()}
            moved["images"] = replace(self.images, arrays=arrays, types=move(self.images.types))
        return replace(self, **moved, packing=replace(self.packing, boundaries=move(self.packing.boundaries)))


@dataclass(frozen=True)
class Shard:
    """The part of every batch that one rank takes."""

    rank: int  # from 0
    ranks: int

    @classmethod
    def own(cls) -> "Shard":
        """That of this process."""
        return cls(dist.get_rank(), dist.get_world_size())


def micro_batches(batch: np.ndarray, lengths: np.ndarray, budget: int, shard: Shard) -> list[np.ndarray]:
    """A rank's share of a batch in groups of about equal size, of at most `budget` tokens each.

    `batch` holds units, `lengths` the tokens of each. Every rank gets the same number of groups, since they move in
    step; some are empty where units are few. A unit above the budget stands alone.
    """
    ordered = batch[np.argsort(-lengths[batch], kind="stable")]
    rounds = max(1, -(-int(lengths[batch].sum()) // (budget * shard.ranks)))
    while True:
        groups: list[list[int]] = [[] for _ in range(rounds * shard.ranks)]
        loads = [(0, i) for i in range(len(groups))]  # a heap: the longest left goes where there is least
        for unit in ordered:
            load, i = loads[0]
            groups[i].append(unit)
            heapq.heapreplace(loads, (load + int(lengths[unit]), i))
        if all(load <= budget or len(groups[i]) == 1 for load, i in loads):
            return [np.array(group, dtype=np.int64) for group in groups[shard.rank :: shard.ranks]]
        rounds += max(1, rounds // 100)  # of a whole data set there are thousands, and each try takes a pass


def micro_batches_of(batch: np.ndarray, rows: int, shard: Shard) -> list[np.ndarray]:
    """A rank's share of a batch, every `ranks`-th unit, in its order, in groups of `rows`; as many on every rank."""
    share, most = batch[shard.rank :: shard.ranks], -(-len(batch) // shard.ranks)
    return [share[start : start + rows].astype(np.int64) for start in range(0, most, rows)]


def rewards(examples: Examples, group: np.ndarray) -> dict[str, Tensor]:
    """Keywords for `Context`: reward and success_rate (S,) of the group's sequences; empty for data without rewards."""
    if examples.rewards is None:
        return {}
    reward, rate = torch.from_numpy(examples.rewards[group]).unbind(1)
    return {"reward": reward, "success_rate": rate}


def token_weights(examples: Examples, group: np.ndarray) -> dict[str, Tensor]:
    """Keywords for `Context`: token_weight (N,) of the group's answer tokens; empty for data without weights."""
    if examples.weights is None:
        return {}
    return {"token_weight": torch.from_numpy(of_answers(examples.weights, examples.answer_offsets, group))}


def of_answers(values: np.ndarray, offsets: np.ndarray, group: np.ndarray) -> np.ndarray:
    """(N, ...) of a group's answer tokens, from the values of all, which lie at the examples' offsets."""
    return np.concatenate([values[:0], *(values[offsets[i] : offsets[i + 1]] for i in group)])


def collate(examples: Examples, group: np.ndarray) -> Batch:
    """The examples of a group in one row. An empty group gives two tokens without an answer.

    Two, since torch.compile compiles dimensions of size 1 apart.
    """
    if not len(group):
        none, zeros = torch.zeros(0, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.int64)
        return Batch(zeros, zeros, Packing.of([2]), none, none, none)
    lengths = examples.lengths[group]
    tokens = np.concatenate([examples.tokens[examples.offsets[i] : examples.offsets[i + 1]] for i in group])
    positions = np.concatenate([np.arange(length) for length in lengths])
    if examples.trained is None:
        trained = positions >= np.repeat(examples.prompts[group], lengths)
    else:
        trained = np.concatenate([examples.is_trained(i) for i in group])
    answers = np.flatnonzero(trained)
    sequence = np.repeat(np.arange(len(group)), examples.answers[group])
    row, place, predictors, targets, owner = (
        torch.from_numpy(np.asarray(array, dtype=np.int64))
        for array in (tokens, positions, answers - 1, tokens[answers], sequence)
    )
    batch = Batch(row[None], place[None], Packing.of(lengths.tolist()), predictors, targets, owner)
    return batch if examples.images is None else _with_images(batch, examples, group)


def _with_images(batch: Batch, examples: Examples, group: np.ndarray) -> Batch:
    """A batch with the images of its examples, decoded and processed, and the model's positions."""
    stored, inputs = examples.images, examples.image_inputs
    assert stored is not None and inputs is not None, "whoever collates examples with images has a processor"
    encoded = [stored.of_example(i) for i in group]
    arrays = inputs.arrays([image for images in encoded for image in images])
    if not arrays:
        return batch
    types = torch.from_numpy(inputs.types(batch.tokens.numpy()))
    counts: dict[str, list[int]] = {name: [] for name in arrays[0]}
    positions, begin, first = [], 0, 0
    for images, length in zip(encoded, batch.packing.lengths, strict=True):
        mine = arrays[first : first + len(images)]
        for name, of_sequences in counts.items():
            of_sequences.append(sum(len(of_image[name]) for of_image in mine))
        if inputs.positions and mine:
            merged, part = (
                {name: joined([each[name] for each in mine]) for name in counts},
                slice(begin, begin + length),
            )
            positions.append(inputs.positions(batch.tokens[:, part], types[:, part], merged))
        elif inputs.positions:
            positions.append(torch.arange(length).expand(3, 1, length))
        begin, first = begin + length, first + len(images)
    merged = {name: joined([each[name] for each in arrays]) for name in counts}
    placed = torch.cat(positions, -1) if positions else batch.positions
    return replace(batch, positions=placed, images=Images(merged, counts, types))
