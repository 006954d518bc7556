"""The artefacts of the paper as files: each composes, is planned without a hub, and shows what its records lack."""

import re
from dataclasses import replace
from functools import cache

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from losslab.commands import toy_suite
from losslab.composition import experiment_files
from losslab.composition.checks import check
from losslab.composition.compose import read
from losslab.composition.grid import overrides as grid
from losslab.config.paths import CONF, EXPERIMENTS
from losslab.config.schema import Config
from losslab.planning import cost, plan
from losslab.records.identity import identity
from losslab.results import claims, tables

FILES = [path for path in sorted(EXPERIMENTS.rglob("*.yaml")) if "\nsweep:" in path.read_text()]
NAMES = [path.relative_to(EXPERIMENTS).with_suffix("").as_posix() for path in FILES]


@cache
def declared(name: str) -> list[Config]:
    return experiment_files.declared(name, "no/where")


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_composes_in_all_its_cells_and_is_planned_without_a_hub(name):
    found = declared(name)
    for cell in found:
        check(replace(cell, plan=True))  # a plan needs no data
    assert found and len({identity(cell) for cell in found}) == len(found)
    assert {cell.sweep.name for cell in found} == {name}  # by which tables find the file
    if hours := re.search(r"# At most (\d+) hours", (EXPERIMENTS / f"{name}.yaml").read_text()):
        needed = cost.total(plan.make(cell).time.cost for cell in found)
        assert needed.training + needed.scoring + needed.rollouts == pytest.approx(int(hours[1]), abs=0.5)


@pytest.mark.parametrize("name", toy_suite.TWINS + toy_suite.OURS)
def test_every_claim_of_a_twin_is_about_rows_that_its_sweep_has(name, monkeypatch):
    grid = declared(f"toy_suite/{name}")
    monkeypatch.setattr(experiment_files, "declared", lambda *_: grid)  # composed once: it takes most of a minute
    table = tables.build(grid[0].sweep, "no/where")
    seeds = set(range(3 if name in toy_suite.FEWER_SEEDS else 5))
    assert grid[0].sweep.directions and {config.seed for config in grid} == seeds
    for claim in grid[0].sweep.directions:
        for row in filter(None, (claim.higher, claim.lower)):
            (named,) = claims.named_rows(table, row).values()
            assert {entry.seed for entry in named.entries} == seeds, claim.claim


def test_an_experiment_can_be_narrowed():
    narrow = ["experiment=table1", "model=qwen2.5-math-1.5b", "loss=sft,dft", "seed=1,2,3"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        whole = compose("config", narrow[:1], return_hydra_config=True)
        OmegaConf.set_readonly(whole, False)
        whole.hydra.overrides.task = narrow
        found = grid(whole)
        one = compose("config", found[-1], return_hydra_config=True)
        config = read(one, one.hydra.runtime.choices)
    assert len(found) == 6
    assert (config.names.model, config.names.loss, config.seed) == ("qwen2.5-math-1.5b", "dft", 3)


def test_what_is_not_built_is_one_clear_error():
    cell = declared("table4")[0]
    lacking = replace(cell, sweep=replace(cell.sweep, needs="a telescope"))
    with pytest.raises(ValueError, match="^table4 cannot be run: losslab lacks a telescope \\(sweep.needs\\)$"):
        check(lacking)


def test_the_papers_settings():
    rates = {c.names.model: c.optimizer.lr for c in declared("table6") if c.names.method == "dft"}
    assert rates.pop("llama-3.1-8b") == 2e-5 and list(rates.values()) == [5e-5] * 4
    for theirs in (c for c in declared("table6") if c.names.method == "iw_sft"):
        assert (theirs.optimizer.lr, theirs.optimizer.weight_decay, theirs.scheduler.warmup_ratio) == (1e-5, 1e-4, 0.05)
        assert (theirs.train.epochs, theirs.optimizer.arguments["betas"]) == (1, [0.9, 0.95])
    assert {(c.adapter.rank, c.adapter.alpha) for c in declared("table9")} == {(8, 16)}
    assert {(c.train.epochs, c.train.overlong, c.dataset.rows) for c in declared("table8")} == {(3, "truncate", 45792)}
    points = {(c.names.loss, c.optimizer.lr, c.train.batch_size) for c in declared("figure3")}
    one_at_a_time = {(lr, 256) for lr in (2e-4, 1e-4, 5e-5, 1e-5)} | {(5e-5, batch) for batch in (32, 64, 128)}
    assert points == {(loss, *point) for loss in ("sft", "dft") for point in one_at_a_time}


def test_table_4_has_its_model_whole_its_images_of_the_papers_size_and_a_vision_tower_that_is_not_trained():
    cells = {config.names.loss: config for config in declared("table4")}
    assert set(cells) == {"base", "sft", "dft"}
    config = cells["dft"]
    assert list(config.benchmark) == ["mathverse", "mathvision", "wemath"] and config.eval.temperature == 0
    assert (config.optimizer.lr, config.train.epochs, config.dataset.rows) == (5e-5, 1, 120_000)
    assert config.train.freeze_vision and config.model.image_arguments == {"max_pixels": 768 * 768}
    planned = plan.make(replace(config, plan=True))
    assert planned.parameters == 3_754_622_976  # as the hub's page counts them, tower and projector included
    assert planned.tokens == planned.steps * 256 * 2048  # images and all
    assert planned.memory > 4 * 4 * planned.parameters  # weights, gradients and two moments, in float32
