"""The disk space and device hours that a sweep needs, as upper bounds from its plan.

Training takes 6 operations for each parameter and token; a pass without gradients and sampling take 2. The speeds are
40% of the bfloat16 peak of an H100 in training, where 51 to 53% were measured on an H200, of equal peak, with 1.5B
parameters (results/benchmarks/gpu-nvidia-h200.md), and 10% in sampling with many requests at once, an assumption.
"""

from dataclasses import dataclass

from losslab.cells.architecture import reference_parameters
from losslab.config.schema import Config
from losslab.objectives.online import PPO, Online, OnPolicy

TRAINING_SPEED = 4e14  # operations a second
SAMPLING_SPEED = 1e14
EXPORTED_BYTES = 2  # of a parameter in a published dtype
CHECKPOINT_BYTES = 12  # of a parameter, its master copy and Adam's two moments


@dataclass(frozen=True)
class Cost:
    disk: float  # bytes that stay: exported models
    checkpoints: float  # bytes of one cell's, at most: those that it keeps, and the one being written
    training: float  # hours of one device
    scoring: float
    rollouts: float  # of online objectives


def of(configs: list[Config], sizes: list[tuple[int, int]]) -> Cost:
    """The cost of cells, given (parameters, tokens of training) of each; 0 tokens for one that is not trained."""
    cells = [_of_cell(config, *size) for config, size in zip(configs, sizes, strict=True)]
    return Cost(
        disk=sum(cell.disk for cell in cells),
        checkpoints=max((cell.checkpoints for cell in cells), default=0.0),
        training=sum(cell.training for cell in cells),
        scoring=sum(cell.scoring for cell in cells),
        rollouts=sum(cell.rollouts for cell in cells),
    )


def _of_cell(config: Config, parameters: int, tokens: int) -> Cost:
    objective, models = online(config), exported(config, tokens)
    problems = sum(benchmark.rows or 0 for benchmark in config.benchmark.values())
    scored = max(1, models) * config.eval.samples * config.eval.max_new_tokens * problems
    trained = 2 * tokens if isinstance(objective, PPO) else tokens  # PPO trains a value model too
    length = config.train.max_length
    written = tokens * objective.answer_tokens(length) / length if objective else 0
    return Cost(
        disk=EXPORTED_BYTES * parameters * models,
        checkpoints=CHECKPOINT_BYTES * parameters * (config.machine.keep_last + 1) if tokens else 0.0,
        training=parameters * (6.0 * trained + 2.0 * _read(config, parameters, tokens)) / TRAINING_SPEED / 3600,
        scoring=2.0 * parameters * scored / SAMPLING_SPEED / 3600,
        rollouts=2.0 * parameters * written / SAMPLING_SPEED / 3600,
    )


def _read(config: Config, parameters: int, tokens: int) -> float:
    """Tokens that an objective reads without gradients, beside those of training (`training.reference_logps`).

    Those of a reference of another size count in proportion to its parameters.
    """
    if not tokens:
        return 0.0
    needs = config.objective.needs
    size = (reference_parameters(config) or parameters) / parameters
    shares = {
        "reference_distribution": size,
        "batch_nll": 1.0,
        "batch_p": 1.0,
        "mismatched_kl": 1 + size / config.train.epochs,  # of as many answers to other questions
        "reference_logp": size / config.train.epochs,  # of the data, once
        "reference_top": size / config.train.epochs,
        "old_logp": 1 / config.train.updates,  # of each batch, once
    }
    if isinstance(objective := online(config), Online):
        shares["old_logp"] *= config.train.updates > 1  # TRL asks for the old policy there alone
        return tokens * (shares["old_logp"] + bool(objective.kl))
    return tokens * sum(shares.get(need, 0.0) for need in needs)


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


def sentence(cost: Cost) -> str:
    """The cost as lines for the plan."""
    gb = 1e9
    return (
        f"disk: {cost.disk / gb:,.1f} GB for the models, and up to {cost.checkpoints / gb:,.1f} GB for the checkpoints "
        f"of each cell at work\n"
        f"device hours of an H100, at most: {cost.training:,.1f} of training (all rows of the full length), "
        f"{cost.scoring:,.1f} of scoring (all samples of the full length)"
        + (f", {cost.rollouts:,.1f} of rollouts" if cost.rollouts else "")
    )
