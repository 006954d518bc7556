"""Parameters of objectives: each has a meaning and, of a number, bounds; a value out of them is one sentence."""

import importlib
import math
import pkgutil
import sys
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from omegaconf import OmegaConf

import losslab.objectives
from losslab.composition.compose import composed
from losslab.config.objective import resolve
from losslab.config.paths import CONF
from losslab.keys import key, limits
from losslab.objectives import Objective
from losslab.objectives.base import Base
from losslab.objectives.online import OnPolicy

MODULES = [
    importlib.import_module(f"losslab.objectives.{m.name}") for m in pkgutil.iter_modules(losslab.objectives.__path__)
]
CLASSES = {
    cls for module in MODULES for cls in vars(module).values()
    if isinstance(cls, type) and is_dataclass(cls) and issubclass(cls, Objective | OnPolicy | Base)
}  # fmt: skip
UNBOUNDED = {  # numbers without bounds, and why
    "Band.alpha": "any exponent is a weight; one below 0 is conf/loss/power_below_zero.yaml",
    "EntropyBonus.entropy_weight": "below 0 the entropy is lowered, which is an objective too",
    "IDFT.beta": "any number but 0, which the class refuses; below 0 likely tokens have the larger exponent",
    "SimPO.gamma": "a margin below 0 still orders the answers",
}
ALLOWED = {  # what the sentence says of an interval, whose square bracket is a limit that is allowed
    "[0, inf)": "to 0 or more", "[0.001, inf)": "to 0.001 or more", "[1, inf)": "to 1 or more",
    "[2, inf)": "to 2 or more", "(0, inf)": "above 0", "[0, 1]": "between 0 and 1",
    "[0, 1)": "to 0 or more and below 1", "(0, 1]": "above 0 and at most 1", "(0, 1)": "above 0 and below 1",
    "(0.5, 1)": "above 0.5 and below 1",
}  # fmt: skip
ANSWERS = {"temperature": "[0.001, inf)", "max_new_tokens": "[1, inf)"}
REWARDED = ANSWERS | {"samples": "[2, inf)", "clip": "[0, inf)", "kl": "[0, inf)"}
DISTILLED = ANSWERS | {"samples": "[1, inf)", "beta": "[0, 1]"}
VALUED = {"value_weight": "[0, inf)", "value_clip": "[0, inf)", "value_lr": "[0, inf)", "gae_lambda": "[0, 1]"}
INTERVALS = {  # of each file of conf/loss whose class has parameters that are numbers; of a class, one file is enough
    "asft": {"kl_weight": "[0, inf)"},
    "asft_k3": {"kl_weight": "[0, inf)"},
    "cadft": {"beta": "[0, inf)"},
    "dft": {"floor": "[0, 1]"},
    "dpo": {"beta": "(0, inf)"},
    "eaft": {"alpha": "[0, inf)", "top_k": "[2, inf)"},
    "focal": {"gamma": "[0, inf)"},
    "gem": {"beta": "(0, inf)"},
    "gift": {"beta": "(0, inf)"},
    "grpo": REWARDED,
    "idft": {"low": "[0, inf)", "high": "(0, inf)"},
    "infosft": {"ceiling": "(0.5, 1)"},
    "iw_sft": {"temperature": "[0, inf)", "clip": "(0, inf)"},
    "iw_sft_token": {"low": "[0, inf)", "high": "(0, inf)"},
    "jsd": {"beta": "(0, 1)"},
    "kto": {"beta": "(0, inf)", "right_weight": "[0, inf)", "wrong_weight": "[0, inf)"},
    "label_smoothing": {"epsilon": "[0, 1)"},
    "luffy": {"gamma": "(0, inf)"},
    "nft": {"floor": "(0, inf)"},
    "opd": DISTILLED,
    "opsd": DISTILLED,
    "orpo": {"odds_weight": "[0, inf)"},
    "power": {"alpha": "(0, inf)"},
    "power_below_zero": {"low": "[0, 1)", "high": "(0, 1]"},
    "ppo": REWARDED | VALUED,
    "psft": {"epsilon": "[0, inf)"},
    "sft_kl": {"kl_weight": "[0, inf)"},
    "simpo": {"beta": "(0, inf)"},
    "stored_top_k_kl": {"top_k": "[1, inf)"},
    "talr": {"w_min": "[0, 1]"},
    "target_sft": {"eta": "[0, 1]"},
    "threshold": {"tau": "[0, 1]"},
    "top_k_kl": {"top_k": "[1, inf)"},
    "z_loss": {"z_weight": "[0, inf)"},
}
CASES = [(file, name, interval) for file, those in INTERVALS.items() for name, interval in those.items()]


def numbers(cls: type) -> dict[str, Field]:
    """The parameters of an objective that are numbers."""
    hints = get_type_hints(cls)
    return {f.name: f for f in fields(cls) if {int, float} & {hints[f.name], *get_args(hints[f.name])}}


def loss(file: str, **changed: object) -> dict:
    """The keys of `loss` in a file, with some changed."""
    return {**OmegaConf.to_container(OmegaConf.load(CONF / f"loss/{file}.yaml")), **changed}


def test_every_parameter_says_what_it_is_and_every_number_has_bounds_or_a_reason():
    assert len(CLASSES) > 45
    for cls in CLASSES:
        for field in fields(cls):
            assert field.metadata.get("meaning"), f"{cls.__name__}.{field.name}: declare it with losslab.keys.key"
    found = {f"{cls.__name__}.{name}": field for cls in CLASSES for name, field in numbers(cls).items()}
    assert {name for name, field in found.items() if not limits(field.metadata)} == set(UNBOUNDED)


def test_the_bounds_below_are_those_of_every_objective():
    files = {type(resolve(file, loss(file))): those for file, those in INTERVALS.items()}
    for path in (CONF / "loss").glob("*.yaml"):
        cls = type(resolve(path.stem, loss(path.stem)))
        assert set(files.get(cls, {})) == {name for name, field in numbers(cls).items() if limits(field.metadata)}, cls


@pytest.mark.parametrize(("file", "name", "interval"), CASES)
def test_a_number_is_refused_beyond_its_bounds_and_taken_at_them(file, name, interval):
    lowest, highest = map(float, interval[1:-1].split(", "))
    whole = isinstance(getattr(resolve(file, loss(file)), name), int) or name == "max_new_tokens"
    of_type = int if whole else float
    inside = math.inf if interval[0] == "(" else -math.inf  # where the next number beside a limit is taken
    taken, refused = [lowest if interval[0] == "[" else math.nextafter(lowest, inside)], [lowest - 1]
    if interval[0] == "(":
        refused.append(lowest)
    if highest < math.inf:
        taken.append(highest if interval[-1] == "]" else math.nextafter(highest, lowest))
        refused += [highest + 1] + [highest] * (interval[-1] == ")")
    elif not whole:
        taken.append(1e30)
    for value in map(of_type, taken):
        assert getattr(resolve(file, loss(file, **{name: value})), name) == value
    for value in map(of_type, refused):
        with pytest.raises(ValueError) as caught:
            resolve(file, loss(file, **{name: value}))
        assert str(caught.value) == f"loss.{name} is {value}: set it {ALLOWED[interval]}"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("loss=eaft loss.top_k=0", "loss.top_k is 0: set it to 2 or more"),
        ("loss=eaft loss.top_k=1", "loss.top_k is 1: set it to 2 or more"),  # the entropy of one token is 0
        ("loss=iw_sft loss.clip=0", "loss.clip is 0.0: set it above 0"),
        ("loss=kto loss.beta=-0.1 dataset.reward_column=reward", "loss.beta is -0.1: set it above 0"),
        ("loss=ppo loss.gae_lambda=5", "loss.gae_lambda is 5.0: set it between 0 and 1"),
        (f"loss=top_k_kl loss.top_k={10**10}", f"loss.top_k is {10**10}: set it between 1 and 1,000,000,000"),
    ],
)
def test_a_value_that_trains_nothing_or_the_wrong_way_ends_in_composition(words, sentence):
    with pytest.raises(ValueError) as caught:
        composed([*words.split(), "model=tiny", "dataset=embedded", "benchmark=[tiny_add]"])
    assert str(caught.value) == sentence


OWN = """
from dataclasses import dataclass
from losslab.keys import key
from losslab.objectives import Objective

@dataclass(frozen=True)
class Mine(Objective):
    share: float = key(0.5, "share of SFT", above=0, high=1)
    plain: float = 2.0

    def loss(self, t):
        return -self.share * t.logp
"""


def test_an_objective_of_ones_own_has_the_bounds_that_it_declares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own_bounds.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    mine = {"_target_": "own_bounds.Mine"}
    assert resolve("mine", {**mine, "share": 1, "plain": -7}).plain == -7
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"^loss.share is {share}: set it above 0 and at most 1$"):
            resolve("mine", {**mine, "share": share})
    sys.modules.pop("own_bounds")


def test_an_upper_bound_alone_is_a_bound():
    assert limits(key(0.0, "a number", high=3).metadata) == "at most 3"
