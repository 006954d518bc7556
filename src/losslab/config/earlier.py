"""Configurations in the records of earlier versions, as this version has them."""

from omegaconf import DictConfig, open_dict

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
