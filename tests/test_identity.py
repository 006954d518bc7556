"""Cells and samples of earlier versions stay what they are: identities as commit 9a75903 computed them."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from losslab.composition.compose import read, recorded
from losslab.config.paths import CONF
from losslab.objectives.base import Base
from losslab.objectives.online import GRPO, PPO
from losslab.records.identity import identity, protocol, recipe

# Of each command line: identity, recipe, protocol; SHA-256 in hex, the first 16 digits.
KNOWN = json.loads(Path(__file__).with_name("identities.json").read_text())


@pytest.fixture(scope="module", autouse=True)
def hydra():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.mark.parametrize("overrides", sorted(KNOWN))
def test_identities_are_those_of_earlier_versions(overrides):
    cfg = compose("config", json.loads(overrides), return_hydra_config=True)
    config = read(cfg, cfg.hydra.runtime.choices)
    assert [key[:16] for key in (identity(config), recipe(config), protocol(config))] == KNOWN[overrides]


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
    cfg = compose("config", [f"loss={names[cls]}"], return_hydra_config=True)
    config = read(cfg, cfg.hydra.runtime.choices)
    written = OmegaConf.structured(config)
    written.loss = loss
    OmegaConf.save(written, tmp_path / "config.yaml")
    earlier = recorded(tmp_path / "config.yaml", ["eval=greedy"])
    assert type(earlier.objective) is cls and earlier.trains == (cls is not Base)
    assert identity(earlier) == identity(config)
