"""The disk space and device hours that a sweep needs, as upper bounds from its plan.

Operations are counted as MFU counts them (`losslab.training.throughput.Work`), for rows of the full length all of whose
tokens are answers; but all experts of a layer count, where MFU counts those that a token is given to. Adapters
themselves are not counted. A pass without gradients and sampling take 2 operations for each parameter and token.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from losslab.config.schema import Config
from losslab.objectives.online import PPO, Online, OnPolicy
from losslab.planning.architecture import reference_parameters

EXPORTED_BYTES = 2  # of a parameter in a published dtype
CHECKPOINT_BYTES = 12  # of a parameter, its master copy and Adam's two moments


@dataclass(frozen=True)
class Size:
    """What a cell trains, and on how much."""

    parameters: int
    tokens: int  # 0 for a cell that is not trained
    operations: float  # FLOPs of training on one token

    @classmethod
    def of(cls, config: Config, architecture: Any, parameters: int, tokens: int) -> "Size":
        """From an architecture that `losslab.planning.architecture` describes, with all experts."""
        text = architecture.get_text_config(decoder=True)
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
        width, layers, heads, vocabulary = (getattr(text, name, None) or 0 for name in names)
        looked_up = 0 if getattr(text, "tie_word_embeddings", False) else vocabulary * width
        head_dim = getattr(text, "head_dim", None) or width // max(1, heads)
        seen = config.train.max_length / 2  # tokens that a token attends to, on average
        products = (4 if config.adapter.rank else 6) * (parameters - looked_up)
        return cls(parameters, tokens, products + 12 * layers * heads * head_dim * seen)


@dataclass(frozen=True)
class Speed:
    """FLOPs per second of one device."""

    training: float | None  # None where it is not known
    sampling: float


@dataclass(frozen=True)
class Cost:
    disk: float = 0.0  # bytes that stay: exported models
    checkpoints: float = 0.0  # bytes of one cell's, at most: those that it keeps, and the one being written
    training: float | None = 0.0  # hours of one device; None where they are not known
    scoring: float = 0.0
    rollouts: float = 0.0  # of online objectives


def total(costs: Iterable[Cost]) -> Cost:
    """The cost of cells; training whose hours are not known is left out."""
    cells = list(costs)
    return Cost(
        disk=sum(cell.disk for cell in cells),
        checkpoints=max((cell.checkpoints for cell in cells), default=0.0),
        training=sum(cell.training or 0.0 for cell in cells),
        scoring=sum(cell.scoring for cell in cells),
        rollouts=sum(cell.rollouts for cell in cells),
    )


def of(config: Config, size: Size, speed: Speed) -> Cost:
    """The cost of one cell on devices of this speed."""
    objective, length, training = online(config), config.train.max_length, 0.0 if not size.tokens else None
    written = size.tokens * objective.answer_tokens(length) / length if objective else 0
    if size.tokens and speed.training is not None:
        training = size.operations * trained_tokens(config, size) / speed.training / 3600
    return Cost(
        disk=EXPORTED_BYTES * size.parameters * exported(config, size.tokens),
        checkpoints=CHECKPOINT_BYTES * size.parameters * (config.machine.keep_last + 1) if size.tokens else 0.0,
        training=training,
        scoring=scoring(config, size, speed),
        rollouts=2.0 * size.parameters * written / speed.sampling / 3600,
    )


def scoring(config: Config, size: Size, speed: Speed) -> float:
    """Hours of one device for the scores of a cell's models."""
    problems = sum(benchmark.rows or 0 for benchmark in config.benchmark.values())
    models = max(1, exported(config, size.tokens))
    sampled = models * config.eval.samples * config.eval.max_new_tokens * problems
    return 2.0 * size.parameters * sampled / speed.sampling / 3600


def trained_tokens(config: Config, size: Size) -> float:
    """The tokens of training that take as long as all passes of a cell over its tokens."""
    trained = 2 * size.tokens if isinstance(online(config), PPO) else size.tokens  # PPO trains a value model too
    read = _read_in_steps(config, size.parameters) + _read_before(config, size.parameters)
    return trained + _share_read(config) * size.tokens * read


def slowdown(config: Config, parameters: int) -> float:
    """The time of a step, by that of its forward and backward alone: more where the objective needs other passes.

    Raises ValueError for a reference that cannot be read.
    """
    return 1 + _share_read(config) * _read_in_steps(config, parameters)


def _share_read(config: Config) -> float:
    """The time of a pass without gradients, as a share of that of forward and backward."""
    return 2 / (4 if config.adapter.rank else 6)


def _read_in_steps(config: Config, parameters: int) -> float:
    """Passes without gradients over the tokens of a step, within it (`training.reference_logps`).

    Those of a reference of another size count in proportion to its parameters.
    """
    needs = config.objective.needs
    old = 1 / config.train.updates  # of each batch, once
    if isinstance(objective := online(config), Online):
        return old * (config.train.updates > 1) + bool(objective.kl)  # TRL asks for the old policy there alone
    distribution = _size_of_reference(config, parameters) if "reference_distribution" in needs else 0.0
    shares = {"batch_nll": 1.0, "batch_p": 1.0, "mismatched_kl": 1.0, "old_logp": old}  # of answers to other questions
    return distribution + sum(shares.get(need, 0.0) for need in needs)


def _read_before(config: Config, parameters: int) -> float:
    """Passes of the reference over the data before the first step, as a share of the tokens of all steps."""
    kept = config.objective.needs & {"reference_logp", "reference_top", "mismatched_kl"}
    if not kept or online(config):
        return 0.0
    return len(kept) * _size_of_reference(config, parameters) / config.train.epochs


def _size_of_reference(config: Config, parameters: int) -> float:
    """Its parameters as a multiple of the model's."""
    return (reference_parameters(config) or parameters) / parameters


def step_tokens(config: Config) -> int:
    """The most tokens of a step. A unit of the batch is a row, a pair, or a question with its sampled answers."""
    sequences = 1 if config.dataset.rejected_column is None else 2
    if objective := online(config):
        sequences = objective.samples
    return config.train.batch_size * sequences * config.train.max_length


def online(config: Config) -> OnPolicy | None:
    """The objective of a cell that learns from its own answers, None for any other."""
    return config.objective if isinstance(config.objective, OnPolicy) else None


def exported(config: Config, tokens: int) -> int:
    """How many models a cell leaves: the finished one, and those of `machine.export_steps` before it."""
    steps = tokens // step_tokens(config)
    return 0 if not tokens else 1 + ((steps - 1) // config.machine.export_steps if config.machine.export_steps else 0)
