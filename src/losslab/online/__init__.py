"""Online objectives: the model answers questions, our verifier rewards the answers, TRL's trainer learns from them.

    questions   rows → prompts with their true answers
    verifier    answers → rewards
    trainers    a configuration → TRL's GRPO trainer, or ppo on top of it
    worker      what one worker does from the first question to the exported model

This module is what a configuration names, and imports nothing heavy. TRL is the extra `online`.
"""

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from losslab.schema import Config

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


def check(config: "Config", cls: type[Online]) -> None:
    """Refuse, with ValueError, what an online objective cannot run with or would not honour."""
    name, train, machine = config.names.loss, config.train, config.machine
    if importlib.util.find_spec("trl") is None:
        raise ValueError(f"loss={name} needs TRL: install the extra, as in pip install -e '.[online]'")
    values = cls(**{key: value for key, value in config.loss.items() if key != "_target_"})
    bounds = {"samples": 2, "max_new_tokens": 1, "temperature": 1e-3, "clip": 0, "kl": 0}  # TRL's trainer wants two
    bounds |= {"value_weight": 0, "value_clip": 0, "value_lr": 0, "gae_lambda": 0}
    for key, low in bounds.items():
        if (value := getattr(values, key, None)) is not None and value < low:
            raise ValueError(f"loss.{key} is {value}: set it to {low:g} or more")
    if values.answer_tokens(train.max_length) >= train.max_length:
        raise ValueError(
            f"loss.max_new_tokens={values.max_new_tokens} leaves no room for a question: set it below "
            f"train.max_length={train.max_length}"
        )
    fixed = {  # options of ours that TRL's trainer does not have
        "train.overlong": (train.overlong, "drop"),
        "train.weights": (train.weights, "fp32"),
        "train.normaliser": (train.normaliser, "natural"),
        "train.reduction": (train.reduction, "batch"),
        "train.micro_batch": (train.micro_batch, None),
        "train.non_finite": (train.non_finite, "stop"),
        "machine.compile": (machine.compile, False),
        "machine.cpu_offload": (machine.cpu_offload, False),
        "machine.sharding": (machine.sharding, "full"),
    }
    for key, (value, only) in fixed.items():
        if value != only:
            shown = "null" if only is None else str(only).lower()
            raise ValueError(f"loss={name} does not know {key}={str(value).lower()}: leave it at {shown}")
    if machine.recompute == "selective":
        raise ValueError(f"loss={name} does not know machine.recompute=selective: set it to none or full")
