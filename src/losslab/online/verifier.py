"""Rewards: 1 for a complete answer (not cut by length) that the corrected verdict accepts, else 0."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from losslab.config.choices import Rules
from losslab.grading.graders import Grader


@dataclass
class Seen:
    """What was read of a batch of answers, summed over them."""

    answers: int = 0
    reward: float = 0.0
    tokens: int = 0
    ended: int = 0  # answers that are not cut by length
    timed_out: int = 0  # answers whose reward is 0 since their verdict ran out of time


class Verifier:
    """Grades answers against the true ones by the rules of the data set, each within the grader's limits."""

    def __init__(self, grader: Grader, tokenizer: Any, ends: list[int], rules: Rules = Rules.general) -> None:
        self.grader, self.tokenizer, self.rules = grader, tokenizer, rules
        self.ends = ends  # the tokens that end an answer
        self.seen, self.rewards = Seen(), [0.0]  # of the last batch

    def __call__(self, answers: Sequence[Sequence[int]], golds: Sequence[str]) -> list[float]:
        """The rewards of a batch of answers, given as token ids up to and with the token that ends them, if any."""
        ended = [bool(ids) and ids[-1] in self.ends for ids in answers]
        bodies = [list(ids[:-1] if end else ids) for ids, end in zip(answers, ended, strict=True)]
        texts = self.tokenizer.batch_decode(bodies, skip_special_tokens=True)
        verdicts = [
            self.grader.submit(self.rules, text, gold, truth=gold) for text, gold in zip(texts, golds, strict=True)
        ]
        judged = [verdict.result() if end else None for end, verdict in zip(ended, verdicts, strict=True)]
        self.rewards = [float(verdict is not None and verdict.corrected) for verdict in judged]
        late = sum(verdict is not None and verdict.timed_out and not verdict.corrected for verdict in judged)
        self.seen = Seen(len(answers), sum(self.rewards), sum(map(len, answers)), sum(ended), late)
        return self.rewards

    def reward(self, completion_ids: list[list[int]], gold: list[str], **_: Any) -> list[float]:
        """As TRL asks for it; `gold` is the data set's column."""
        return self(completion_ids, gold)
