"""Which data each step trains on, and how many steps there are. Does not import torch, since the plan uses it."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from losslab.config.schema import TrainConfig

if TYPE_CHECKING:
    import numpy as np

    from losslab.data.examples import Examples


class BatchSampler(Protocol):
    """Which units of data each step takes."""

    @property
    def steps(self) -> int: ...

    def batch(self, step: int) -> "np.ndarray":
        """Indices of the units of a step, counted from 0."""


@dataclass(frozen=True)
class RandomBatchSampler:
    """Takes one permutation of the units per epoch, which depends on the seed alone."""

    units: int
    batch_size: int
    epochs: int
    seed: int
    drop_last: bool = False
    max_steps: int | None = None
    updates: int = 1  # steps in a row on the same batch

    @classmethod
    def of(cls, train: TrainConfig, seed: int, examples: "Examples | int") -> "RandomBatchSampler":
        """The batches of a training configuration over examples, or over a number of rows."""
        units = examples if isinstance(examples, int) else len(examples) // examples.unit
        return cls(units, train.batch_size, train.epochs, seed, train.drop_last, train.max_steps, train.updates)

    @classmethod
    def of_questions(cls, train: TrainConfig, seed: int, questions: int) -> "RandomBatchSampler":
        """The batches of online training, which leaves out questions that do not fill a batch."""
        return cls.of(replace(train, drop_last=True), seed, questions)

    @property
    def steps_per_epoch(self) -> int:
        batches = self.units // self.batch_size if self.drop_last else -(-self.units // self.batch_size)
        return batches * self.updates

    @property
    def steps(self) -> int:
        steps = self.steps_per_epoch * self.epochs
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def batch(self, step: int) -> "np.ndarray":
        """Indices of the units of a step, counted from 0."""
        import numpy as np

        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.units)
        start = position // self.updates * self.batch_size
        return order[start : start + self.batch_size]

    def tokens(self, lengths: "np.ndarray", steps: int) -> list[int]:
        """Tokens of each of the first steps, of which there are `steps`, from those of each unit."""
        return [int(lengths[self.batch(step)].sum()) for step in range(min(steps, self.steps))]

    def saves(self, step: int, every: int, asked: bool) -> bool:
        """Whether a checkpoint follows a step: about every `every` steps, or if asked to stop, but never within a
        batch.
        """
        done = step + 1
        return done < self.steps and done % self.updates == 0 and (asked or done % every < self.updates)
