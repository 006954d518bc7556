"""Translates configurations in the records of earlier versions to this version."""

from omegaconf import DictConfig, open_dict

from losslab.config.choices import Gold, Rules

MOVED = {  # objectives
    None: "losslab.objectives.base.Base",
    "losslab.online.GRPO": "losslab.objectives.online.GRPO",
    "losslab.online.PPO": "losslab.objectives.online.PPO",
}


def translate(config: DictConfig) -> None:
    """Change the content of a config.yaml to the names of this version, in place."""
    target = config.loss.get("_target_")
    with open_dict(config):
        config.loss._target_ = MOVED.get(target, target)
        config.sweep.pop("gpu_hours", None)
        for name, benchmark in config.benchmark.items():
            if "rules" not in benchmark:  # the name decided the rules
                exact = benchmark.get("gold") == Gold.any
                benchmark.rules = Rules.exact_match if exact else name if name in set(Rules) else Rules.general
