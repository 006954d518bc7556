"""Rewards: 1 for an answer that the corrected verdict accepts, else 0; in whichever shape a trainer asks for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from losslab.evaluation.grading import Grader

DATASET = "dataset"  # no benchmark: the general rules


@dataclass
class Seen:
    """What the verifier has read since the last step, summed over answers."""

    answers: int = 0
    reward: float = 0.0
    tokens: int = 0
    ended: int = 0  # answers that came to their end


class Verifier:
    """Grades answers against the true ones, each within the grader's limits of time and memory."""

    def __init__(self, grader: Grader, tokenizer: Any) -> None:
        self.grader, self.tokenizer = grader, tokenizer
        self.seen = Seen()

    def __call__(self, answers: Sequence[Sequence[int]], golds: Sequence[str]) -> list[float]:
        """The rewards of answers, token ids up to and with EOS where they have one."""
        texts = self.tokenizer.batch_decode([list(ids) for ids in answers], skip_special_tokens=True)
        verdicts = [
            self.grader.submit(DATASET, text, gold, truth=gold) for text, gold in zip(texts, golds, strict=True)
        ]
        rewards = [float(verdict.result().corrected) for verdict in verdicts]
        self.seen.answers += len(rewards)
        self.seen.reward += sum(rewards)
        self.seen.tokens += sum(map(len, answers))
        self.seen.ended += sum(self.tokenizer.eos_token_id in ids[-1:] for ids in answers)
        return rewards

    def reward(self, completion_ids: list[list[int]], gold: list[str], **_: Any) -> list[float]:
        """As TRL's GRPO asks for it; `gold` is the data set's column."""
        return self(completion_ids, gold)


class RewardModel(nn.Module):
    """The verifier as TRL's PPO asks for it: a backbone from token ids to hidden states and a score of each of them.

    The backbone reads the answers of a batch in the order in which `expect` announced their golds, and its "hidden
    states" (B, T, 1) are the rewards, the same at every position.
    """

    base_model_prefix = "reader"

    def __init__(self, verifier: Verifier) -> None:
        super().__init__()
        self.verifier = verifier
        self.golds: list[str] = []
        self.width = 0
        self.score = nn.Identity()

    def expect(self, golds: list[str], width: int) -> None:
        """The batch to come: the true answer of each of its rows, and the tokens of its padded prompts."""
        self.golds, self.width = golds, width

    def reader(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> SimpleNamespace:
        golds, self.golds = self.golds[: len(input_ids)], self.golds[len(input_ids) :]
        answers = [
            ids[mask].tolist()
            for ids, mask in zip(input_ids[:, self.width :], attention_mask[:, self.width :], strict=True)
        ]
        rewards = torch.tensor(self.verifier(answers, golds), device=input_ids.device)
        return SimpleNamespace(hidden_states=[rewards[:, None, None].expand(*input_ids.shape, 1)])
