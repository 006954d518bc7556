"""Configurations in the records of earlier versions, as this version has them."""

from omegaconf import DictConfig, open_dict

from losslab.config.choices import Gold, Rules

MOVED = {  # objectives
    None: "losslab.objectives.base.Base",
    "losslab.online.GRPO": "losslab.objectives.online.GRPO",
    "losslab.online.PPO": "losslab.objectives.online.PPO",
}


def translate(config: DictConfig) -> None:
    """Change what was in config.yaml to the names of this version, in place."""
    target = config.loss.get("_target_")
    with open_dict(config):
        config.loss._target_ = MOVED.get(target, target)
        config.sweep.pop("gpu_hours", None)
        for name, benchmark in config.benchmark.items():
            if "rules" not in benchmark:  # which were those of the name
                exact = benchmark.get("gold") == Gold.any
                benchmark.rules = Rules.exact_match if exact else name if name in set(Rules) else Rules.general
