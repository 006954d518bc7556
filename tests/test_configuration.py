"""Keys of the configuration: each has a meaning and bounds; a value that cannot be is one sentence."""

import math
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from typing import get_args, get_origin, get_type_hints

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from losslab.composition import check_optimizer
from losslab.composition.check_optimizer import _shipped, step_once
from losslab.composition.compose import read
from losslab.composition.words import any_model
from losslab.config import sweep
from losslab.config.messages import first_line, sentence
from losslab.config.paths import CONF
from losslab.config.schema import BenchmarkConfig, Config, OptimizerConfig
from losslab.keys import LARGEST, LARGEST_SEED, check_bounds


@pytest.fixture(scope="module", autouse=True)
def hydra():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def refused(*arguments: str) -> str:
    """The sentence with which a command line is refused."""
    with pytest.raises(Exception) as caught:
        cfg = compose("config", [part for one in arguments for part in any_model(one)], return_hydra_config=True)
        read(cfg, cfg.hydra.runtime.choices)
    text = sentence(caught.value)
    assert "\n" not in text
    return text


def keys(cls: type = Config, prefix: str = "") -> Iterator[tuple[str, Field, object]]:
    """(dotted name, field, type) of every key of the schema; those of a benchmark under `benchmark.`."""
    for field, hint in zip(fields(cls), get_type_hints(cls).values(), strict=True):
        parts = [hint, *get_args(hint)]
        nested = [part for part in parts if is_dataclass(part) and isinstance(part, type)]
        if nested:
            yield from keys(nested[0], f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field, hint


KEYS = {name: (field, hint) for name, field, hint in keys() if not name.startswith("names.")}
NUMBERS = {
    name: field
    for name, (field, hint) in KEYS.items()
    if {int, float} & {hint, *get_args(hint)} and get_origin(hint) not in (dict, list)
}


def test_every_key_says_what_it_is_and_every_number_has_bounds():
    for name, (field, _) in KEYS.items():
        assert field.metadata.get("meaning"), name
    assert len(NUMBERS) > 40
    for name, field in NUMBERS.items():
        low, high = field.metadata["low"], field.metadata["high"]
        assert -math.inf < low < high < math.inf, name
        if isinstance(field.default, int | float):
            assert low <= field.default <= high, name


@pytest.mark.parametrize("name", [name for name in NUMBERS if not name.startswith(("benchmark.", "sweep."))])
def test_a_number_is_refused_beyond_its_bounds_and_where_it_is_not_finite(name):
    group, _, key = name.rpartition(".")
    field = NUMBERS[name]
    low, high = field.metadata["low"], field.metadata["high"]
    for value in (low, high):
        config = Config()
        setattr(getattr(config, group) if group else config, key, value)
        check_bounds(config)
    for value in (low - 1, high + 1, math.nan, math.inf, -math.inf):
        config = Config()
        setattr(getattr(config, group) if group else config, key, value)
        with pytest.raises(ValueError, match=f"^{name} is {value}: set it (between|to)"):
            check_bounds(config)


def test_bounds_hold_inside_of_dictionaries_and_lists():
    config = Config(benchmark={"mine": BenchmarkConfig(rows=0)})
    with pytest.raises(ValueError, match=r"^benchmark\.mine\.rows is 0: set it to 1 or more$"):
        check_bounds(config)
    config = Config(sweep=sweep.SweepConfig(directions=[sweep.DirectionConfig(step=-1)]))
    with pytest.raises(ValueError, match=r"^sweep\.directions\.0\.step is -1: set it to 1 or more$"):
        check_bounds(config)
    config = Config(optimizer=OptimizerConfig(arguments={"betas": [0.9, math.nan]}))
    with pytest.raises(ValueError, match=r"^optimizer\.arguments\.betas\.1 is nan: set it to a finite number$"):
        check_bounds(config)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("machine.grading_seconds=0", "machine.grading_seconds is 0.0: set it between 0.1 and 3,600"),
        ("machine.grading_seconds=nan", "machine.grading_seconds is nan: set it between"),
        ("model.pretrain_batch=0", "model.pretrain_batch is 0: set it to 1 or more"),
        ("model.pretrain_rows=-5", "model.pretrain_rows is -5: set it to 0 or more"),
        ("optimizer.weight_decay=nan", "optimizer.weight_decay is nan: set it between 0 and 1,000"),
        ("optimizer.weight_decay=-5", "optimizer.weight_decay is -5.0: set it between 0 and 1,000"),
        ("seed=-1", f"seed is -1: set it between 0 and {LARGEST_SEED:,}"),
        (f"seed={2**64}", f"seed is {2**64}: set it between 0 and {LARGEST_SEED:,}"),
        ("eval.seed=-3", "eval.seed is -3: set it between"),
        ("adapter.alpha=0", "adapter.alpha is 0: set it to 1 or more"),
        ("eval.temperature=1e30", "eval.temperature is 1e+30: set it between 0 and 100"),
        (
            "train.epochs=1e12",
            "train.epochs: value '1000000000000.0' of type 'float' could not be converted to Integer",
        ),
        ("train.epochs=1000000000000", "train.epochs is 1000000000000: set it between 1 and 10,000"),
        (f"train.batch_size={LARGEST + 1}", f"train.batch_size is {LARGEST + 1}: set it between 1 and 1,000,000,000"),
        ("loss=focal loss.gamma=nan", "loss.gamma is nan: set it to a finite number"),
        ("+optimizer.arguments.lr=3", "optimizer.arguments.lr is set by optimizer.lr: leave it out"),
        (
            "optimizer=sgd optimizer._target_=torch.optim.LBFGS ~optimizer.arguments.momentum",
            "optimizer._target_=torch.optim.LBFGS cannot train with optimizer.arguments={} (",
        ),
        (
            "optimizer._target_=torch.optim.Rprop ~optimizer.arguments.fused",
            "optimizer._target_=torch.optim.Rprop has no weight decay: set optimizer.weight_decay=0",
        ),
        (
            "optimizer._target_=torch.nn.Linear",
            "optimizer._target_=torch.nn.Linear is not a torch.optim.Optimizer: give one",
        ),
        (
            "optimizer.arguments.betas=[2,3]",
            "optimizer._target_=torch.optim.AdamW cannot train with optimizer.arguments={'betas': [2, 3], ",
        ),
        ("model=", "model has no value: set it to a name of conf/model, a hub id, or the folder of a checkpoint"),
        ("model=/", "model.path=/ holds no config.json or adapter_config.json: name the folder of a checkpoint"),
        ("model=/no/[x]/a=b", "model.path=/no/[x]/a=b is not a folder: check the path"),
        (
            "dataset=file dataset.path=/",
            "dataset.path=/ contains the current folder: name the folder that holds the data alone",
        ),
        ("dataset=file dataset.path=", "dataset.path is empty: set it to a hub id, a file, or a folder of data"),
        ("train.batch_size=null", "train.batch_size cannot be null: set it to a value, or leave it out"),
        (
            "benchmark=[math500",
            "benchmark=[math500 cannot be read: quote the value, as in 'benchmark=\"[math500\"', or ",
        ),
        ("dataset.path=/a=b", "dataset.path=/a=b cannot be read: quote the value, as in 'dataset.path=\"/a=b\"'"),
        ("dataset.path=/[x]", "dataset.path=/[x] cannot be read: quote the value, as in 'dataset.path=\"/[x]\"'"),
        ("optimizer=3", "optimizer=3 does not exist: choose a file of conf/optimizer"),
        ("train.batch_size=${nope}", "train.batch_size: Interpolation key 'nope' not found"),
        ("sweep.name=../../x", "sweep.name='../../x' cannot name a folder"),
        ("sweep.name=", "sweep.name='' cannot name a folder"),
        (
            "loss=base loss._target_=losslab.objectives.dft.DFT",
            "loss=base trains nothing: choose another loss, or leave",
        ),
    ],
)
def test_a_value_that_no_cell_can_have_is_one_sentence_that_names_its_key(arguments, message):
    assert refused(*arguments.split()).startswith(message)


def test_a_path_with_brackets_or_equals_signs_is_a_model(tmp_path):
    for name in ("a=b", "[1]", "'c' ${d}"):
        cfg = compose("config", any_model(f"model={tmp_path}/{name}"), return_hydra_config=True)
        assert OmegaConf.to_container(cfg.model)["path"] == f"{tmp_path}/{name}"


def test_shipped_optimizers_take_a_step():
    assert len(_shipped()) == 2
    for target, arguments in _shipped():
        step_once(OptimizerConfig(target, lr=1e-3, weight_decay=0.1, arguments=arguments))


def test_an_optimizers_file_need_not_have_arguments(tmp_path, monkeypatch):
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer/mine.yaml").write_text("_target_: torch.optim.SGD\nlr: 0.1\n")
    monkeypatch.setattr(check_optimizer, "CONF", tmp_path)
    monkeypatch.setattr(check_optimizer, "_shipped", check_optimizer._shipped.__wrapped__)
    assert check_optimizer._shipped() == [("torch.optim.SGD", {})]
    check_optimizer.check_optimizer(OptimizerConfig("torch.optim.SGD", lr=0.1))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError(" \n"), "ValueError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (OSError("\n no file \nwith more"), "no file "),
    ],
)
def test_the_first_line_of_an_error_is_its_type_where_it_says_nothing(error, line):
    assert first_line(error) == line
