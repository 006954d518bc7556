"""Cells and samples of earlier versions stay what they are: identities as commit 9a75903 computed them."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from losslab.composition.compose import read, recorded
from losslab.config.paths import CONF
from losslab.config.schema import Config
from losslab.objectives.base import Base
from losslab.objectives.online import GRPO, PPO
from losslab.records.identity import identity, protocol, recipe

# Of each command line: identity, recipe, protocol; SHA-256 in hex, the first 16 digits. experiment=knowledge has no
# protocol here: its prompt has become the benchmark's, whose hash is in the protocol's file.
KNOWN = json.loads(Path(__file__).with_name("identities.json").read_text())


def composed(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", list(overrides), return_hydra_config=True)
        return read(cfg, cfg.hydra.runtime.choices)


@pytest.mark.parametrize("overrides", sorted(KNOWN))
def test_identities_are_those_of_earlier_versions(overrides):
    config = composed(*json.loads(overrides))
    keys = [key[:16] for key in (identity(config), recipe(config), protocol(config))]
    assert keys[: len(KNOWN[overrides])] == KNOWN[overrides]


@pytest.mark.parametrize(
    ("loss", "cls"),
    [
        ({"_target_": "losslab.online.GRPO", "samples": 4, "kl": 0.0}, GRPO),
        ({"_target_": "losslab.online.PPO", "samples": 4}, PPO),
        ({"_target_": None}, Base),
    ],
)
def test_a_record_of_an_earlier_version_is_read(tmp_path, loss, cls):
    names = {GRPO: "grpo", PPO: "ppo", Base: "base"}
    config = composed(f"loss={names[cls]}", "benchmark=[math500,aime24]")
    written = OmegaConf.create(OmegaConf.to_yaml(OmegaConf.structured(config)))
    written.loss = loss
    written.sweep.gpu_hours = 92
    for benchmark in written.benchmark.values():
        for key in ("rules", "prompt", "stop"):
            del benchmark[key]
    OmegaConf.save(written, tmp_path / "config.yaml")
    earlier = recorded(tmp_path / "config.yaml", ["eval=greedy"])
    assert type(earlier.objective) is cls and earlier.trains == (cls is not Base)
    assert identity(earlier) == identity(config)
    assert earlier.benchmark == config.benchmark  # whose rules were those of the name
