"""Online objectives as a configuration names them: the model answers questions, and learns from rewarded answers.

They are settings; `losslab.online` trains with them.
"""

from dataclasses import dataclass
from typing import ClassVar

PROMPT_SHARE = 0.25  # of train.max_length, left to the prompt where max_new_tokens is not set


@dataclass(frozen=True)
class Online:
    """What the online objectives have in common. A step draws `train.batch_size` questions and answers each `samples`
    times, as the train batch size of verl counts. All of its answers are generated at once, and `train.updates` steps
    are taken on them.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"old_logp"})  # which the trainer keeps
    samples: int = 4  # answers to each question
    temperature: float = 1.0
    max_new_tokens: int | None = None  # of an answer; null = three quarters of train.max_length
    clip: float = 0.2  # of the probability ratio of an answer's token to 1 ± clip
    kl: float = 0.0  # weight of the divergence from the model before training; the paper names none

    def answer_tokens(self, max_length: int) -> int:
        """The longest answer, in tokens; the rest of `max_length` is for the prompt."""
        return self.max_new_tokens or max_length - int(PROMPT_SHARE * max_length)


@dataclass(frozen=True)
class GRPO(Online):
    """Group relative policy optimisation: the advantage of an answer is its reward minus the mean over the answers to
    the same question, divided by their standard deviation; the mean over the tokens of an answer, then over answers.

    Source: arXiv 2402.03300, equations 3 and 4.
    """


@dataclass(frozen=True)
class PPO(Online):
    """Proximal policy optimisation with a value model from the same checkpoint and generalised advantages.

    Source: arXiv 1707.06347, equations 7, 9 and 11. The reward comes with the last token, advantages are standardised
    over all tokens of a batch, and so is the mean of the loss taken.
    """

    value_weight: float = 0.5  # of the value model's loss
    value_clip: float = 0.2  # of the change of a value
    value_lr: float = 10.0  # the value model's learning rate, as a multiple of the policy's
    gae_lambda: float = 1.0
