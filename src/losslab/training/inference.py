"""A policy run over data without gradients, by micro-batches on all ranks."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from losslab.config.machine import MachineConfig
from losslab.config.schema import AdapterConfig, Config, ModelConfig
from losslab.data.batches import Batch, Shard, collate, micro_batches
from losslab.data.examples import Examples
from losslab.models.policy import Policy
from losslab.progress import bar


def frozen(config: Config, model: ModelConfig) -> Config:
    """The configuration of a cell whose model is `model`, which is measured and not trained.

    It has no adapters, which an export has merged, and its weights need no float32 copy.
    """
    train = replace(config.train, weights=config.train.precision)
    return replace(config, model=model, adapter=AdapterConfig(), train=train)


@dataclass(frozen=True)
class Inference:
    """A policy, this rank's device, and how much it takes at once. Its methods are called on every rank."""

    policy: Policy
    device: torch.device
    tokens: int  # of a micro-batch, at most

    @classmethod
    def of(cls, policy: Policy, device: torch.device, machine: MachineConfig) -> "Inference":
        """With the micro-batches of training, whose size has been chosen."""
        assert isinstance(machine.micro_batch_tokens, int)
        return cls(policy, device, machine.micro_batch_tokens)

    def answer_logp(self, examples: Examples, chosen: np.ndarray, title: str) -> np.ndarray:
        """Log-probabilities of the answer tokens of some examples under the policy as it is now.

        (N,) float32, example by example in the order of `chosen`, alike on all ranks. Rank 0 shows a bar with this
        title.
        """
        (values,) = self.of_all(lambda batch: (self.policy.target_logp(batch),), examples, chosen, title)
        return values.cpu().numpy()

    def of_all(
        self, measure: Callable[[Batch], tuple[Tensor, ...]], examples: Examples, chosen: np.ndarray, title: str
    ) -> list[Tensor]:
        """The results of `measure`, (n, ...) each for the answer tokens of a micro-batch, of all that are chosen.

        In the order and on the ranks of `answer_logp`, and on the device.
        """
        lengths, answers = examples.lengths[chosen], examples.answers[chosen]
        offsets = np.r_[0, answers.cumsum()]
        values: list[Tensor] = []
        groups = micro_batches(np.arange(len(chosen)), lengths, self.tokens, Shard.own())
        progress = bar(title, len(groups), "batch", disable=dist.get_rank() > 0)
        for group in groups:
            batch = collate(examples, chosen[group])
            places = [np.arange(offsets[i], offsets[i + 1]) for i in group] or [np.zeros(0, dtype=np.int64)]
            parts = measure((batch.pin_memory() if self.device.type == "cuda" else batch).to(self.device))
            values = values or [part.new_zeros(int(offsets[-1]), *part.shape[1:]) for part in parts]
            at = torch.from_numpy(np.concatenate(places)).to(self.device, non_blocking=True)
            for value, part in zip(values, parts, strict=True):
                value.index_copy_(0, at, part)
            progress.update()
        progress.close()
        for value in values:
            dist.all_reduce(value)
        return values
