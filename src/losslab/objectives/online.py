"""On-policy objectives as a configuration names them: the model answers questions, and learns from its own answers, by
their rewards or from a teacher.

They are settings; `losslab.online` trains with them.
"""

from dataclasses import dataclass
from typing import ClassVar

from losslab.keys import key

PROMPT_SHARE = 0.25  # of train.max_length, left to the prompt where max_new_tokens is not set


@dataclass(frozen=True)
class OnPolicy:
    """What objectives on the model's own answers have in common.

    A step draws `train.batch_size` questions and generates `samples` answers to each, all at once; as in verl, the
    batch size counts questions.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    samples: int = key(4, "answers to each question", low=1)
    temperature: float = key(1.0, "of the answers; in distillation of both distributions too", low=1e-3)
    max_new_tokens: int | None = key(None, "of an answer; null = three quarters of train.max_length", low=1)

    def answer_tokens(self, max_length: int) -> int:
        """The longest answer, in tokens; the rest of `max_length` is for the prompt."""
        return self.max_new_tokens or max_length - int(PROMPT_SHARE * max_length)


@dataclass(frozen=True)
class Online(OnPolicy):
    """Reinforcement learning from rewarded answers: `train.updates` steps are taken on the answers of a step."""

    needs: ClassVar[frozenset[str]] = frozenset({"old_logp"})  # which the trainer keeps
    samples: int = key(4, "answers to each question, which TRL's trainer of GRPO compares", low=2)
    clip: float = key(0.2, "of the probability ratio of an answer's token to 1 ± clip", low=0)
    kl: float = key(0.0, "weight of the divergence from the model before training; the paper names none", low=0)


@dataclass(frozen=True)
class GRPO(Online):
    """Group relative policy optimisation: the advantage of an answer is its reward minus the mean over the answers to
    the same question, divided by their standard deviation; the mean over the tokens of an answer, then over answers.

    Source: arXiv 2402.03300, equations 3 and 4.
    """


@dataclass(frozen=True)
class PPO(Online):
    """Proximal policy optimisation with a value model from the same checkpoint and generalised advantages.

    Source: arXiv 1707.06347, equations 7, 9 and 11. The reward comes with the last token; advantages are standardised,
    and the loss is averaged, over all tokens of a batch.
    """

    value_weight: float = key(0.5, "of the value model's loss", low=0)
    value_clip: float = key(0.2, "of the change of a value", low=0)
    value_lr: float = key(10.0, "the value model's learning rate, as a multiple of the policy's", low=0)
    gae_lambda: float = key(
        1.0, "of generalised advantages: 0 = from the next value, 1 = from the whole reward", low=0, high=1
    )


@dataclass(frozen=True)
class OPD(OnPolicy):
    """On-policy distillation: at every token of the model's own answers, the generalised Jensen-Shannon divergence
    between teacher and policy over the vocabulary; the mean over all tokens of a step.

    The teacher is `reference.path`. With M = beta teacher + (1 - beta) policy it is beta KL(teacher || M) + (1 - beta)
    KL(policy || M), at beta 0 KL(teacher || policy) and at 1 KL(policy || teacher). Answers are not differentiated
    through. `temperature` is that of the answers and of both distributions. Source: arXiv 2306.13649 (GKD), equations 1
    and 3, with all answers the policy's own (its lambda is 1); computed by TRL's DistillationTrainer.
    Its beta is 1 too; that of TRL's GKDTrainer is 0.5, with lambda 0.5 and temperature 0.9.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference_distribution", "teacher"})
    samples: int = key(1, "answers to each question", low=1)
    beta: float = key(
        1.0, "0 = KL(teacher || policy), 1 = KL(policy || teacher), between them Jensen-Shannon", low=0, high=1
    )

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise ValueError(f"on-policy distillation needs a beta from 0 to 1, not {self.beta}.")


@dataclass(frozen=True)
class OPSD(OPD):
    """On-policy self-distillation: the teacher is the model before training, and has read the solution.

    The same divergence as `OPD`. The teacher's question is `teacher_prompt`, in the prompt's template; the policy has
    the question alone. `reference.path` may name another teacher. Source: arXiv 2601.18734 (OPSD), at its beta 0.5 and
    its frozen teacher, and 2601.19897 (SDFT), whose teacher follows the policy as a moving average; `teacher_prompt` is
    that of TRL's SDFTTrainer. The papers' own prompts were not read. OPSD's scripts sample at temperature 1.1 to 1.2
    with top_p 0.95 and top_k 20, and up to 2,048 tokens; here it is temperature 1 and the whole distribution.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference_distribution"})
    beta: float = key(
        0.5, "0 = KL(teacher || policy), 1 = KL(policy || teacher), between them Jensen-Shannon", low=0, high=1
    )
    teacher_prompt: str = key("{problem}\n\n{solution}", "the question that the teacher reads")

    def __post_init__(self) -> None:
        super().__post_init__()
        if missing := [part for part in ("{problem}", "{solution}") if part not in self.teacher_prompt]:
            raise ValueError(f"loss.teacher_prompt must be a text that contains {' and '.join(missing)}")

    def informed(self, problem: str, solution: str) -> str:
        """What the teacher is asked; braces elsewhere, as in \\boxed{}, stay as they are."""
        before, after = self.teacher_prompt.split("{solution}", 1)
        return f"{before.replace('{problem}', problem)}{solution}{after.replace('{problem}', problem)}"
