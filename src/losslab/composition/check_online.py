"""What an on-policy objective cannot run with, or would not honour."""

import importlib.util
from pathlib import Path

from losslab.config.machine import AUTO
from losslab.config.schema import Config
from losslab.objectives.online import OnPolicy


def check_online(config: Config, objective: OnPolicy) -> None:
    """Refuse, with ValueError, what an on-policy objective cannot run with or would not honour."""
    name, train, machine = config.names.loss, config.train, config.machine
    if importlib.util.find_spec("trl") is None:
        raise ValueError(f"loss={name} needs TRL: install the extra, as in pip install -e '.[online]'")
    _check_reference(config, objective)
    if objective.answer_tokens(train.max_length) >= train.max_length:
        raise ValueError(
            f"loss.max_new_tokens={objective.max_new_tokens} leaves no room for a question: set it below "
            f"train.max_length={train.max_length}"
        )
    fixed = {  # our options that TRL's trainer lacks, beside `auto`
        "train.overlong": (train.overlong, "drop"),
        "train.weights": (train.weights, "fp32"),
        "train.normaliser": (train.normaliser, "natural"),
        "train.reduction": (train.reduction, "batch"),
        "train.micro_batch": (train.micro_batch, None),
        "train.non_finite": (train.non_finite, "stop"),
        "machine.compile": (machine.compile, False),
        "machine.reshard": (machine.reshard, False),
        "machine.deterministic": (machine.deterministic, False),
        "machine.cpu_offload": (machine.cpu_offload, False),
        "machine.sharding": (machine.sharding, "full"),
    }
    for key, (value, only) in fixed.items():
        if value not in (only, AUTO):
            shown = "null" if only is None else str(only).lower()
            raise ValueError(f"loss={name} does not know {key}={str(value).lower()}: leave it at {shown}")
    if machine.recompute == "selective":
        raise ValueError(f"loss={name} does not know machine.recompute=selective: set it to none or full")


def _check_reference(config: Config, objective: OnPolicy) -> None:
    """Refuse a divergence from a revision on the hub: TRL loads its reference by the model's name alone."""
    path, revision, kl = config.model.path, config.model.revision, getattr(objective, "kl", 0)
    if kl > 0 and revision is not None and not Path(path).is_dir():
        raise ValueError(
            f"loss.kl={kl:g} is the divergence from {path}, which TRL would load without "
            f"model.revision={revision}: download that revision and set model.path to its folder"
        )
