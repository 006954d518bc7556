"""Cells and samples of earlier versions stay what they are: identities as commit 9a75903 computed them."""

import importlib
import json
import linecache
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from losslab.composition.compose import read, recorded_config
from losslab.config.paths import CONF
from losslab.config.schema import Config
from losslab.files.python_source import syntax
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
    earlier = recorded_config(tmp_path / "config.yaml", ["eval=greedy"])
    assert type(earlier.objective) is cls and earlier.trains == (cls is not Base)
    assert identity(earlier) == identity(config)
    assert earlier.benchmark == config.benchmark  # whose rules were those of the name


OWN_BASE = """
from losslab.objectives import Objective

class Scaled(Objective):
    scale = {scale}
"""
OWN = """
from dataclasses import dataclass
from own_base import Scaled
{comment}
def weight(t):
    return {weight}

@dataclass(frozen=True)
class Mine(Scaled):
    def loss(self, t):
        return -weight(t) * t.logp
"""


def test_an_objective_of_ones_own_counts_with_the_functions_and_bases_beside_it(tmp_path, monkeypatch):
    """A change of a helper, or of a class that it derives from, is another recipe; one of a comment is not."""
    monkeypatch.syspath_prepend(tmp_path)
    config = composed("loss=sft")
    config.loss = {"_target_": "own.Mine"}

    def changed(weight: str = "t.p", scale: int = 1, comment: str = "") -> str:
        for name, text in (
            ("own_base", OWN_BASE.format(scale=scale)),
            ("own", OWN.format(weight=weight, comment=comment)),
        ):
            (tmp_path / f"{name}.py").write_text(text)
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        linecache.checkcache()
        return recipe(config)

    before = changed()
    assert changed(comment="# the squares were worse") == before
    assert len({before, changed(weight="t.p ** 2"), changed(scale=2)}) == 3


DECLARED = """
from dataclasses import dataclass
{imports}
from losslab.objectives import Objective

@dataclass(frozen=True)
class Mine(Objective):
    share: float = {share}

    def loss(self, t):
        share: float = key({factor}, 1)
        return -share * t.logp
"""


def test_meaning_and_bounds_of_a_parameter_are_no_part_of_a_recipe_and_its_default_is():
    def code(share: str, imports: str = "from losslab.keys import key", factor: int = 1) -> str:
        return syntax(DECLARED.format(imports=imports, share=share, factor=factor))

    before = code("0.5", imports="")
    assert code('key(0.5, "share of SFT", low=0, below=1)') == code('key(0.5, "another text")') == before
    assert len({before, code('key(0.6, "share of SFT")'), code("0.5", factor=2), code("share(0.5)")}) == 4


SOURCE = '''"""A module."""
import ast

class A(B, metaclass=C):
    """A class."""

    def f(self, x: int | None = None, *, y=f"{1.5:>{2}}{x!r}"):
        """A function."""
        return None, [], x if x else yield_  # a comment
'''


def test_the_text_of_code_is_that_of_python_3_11():
    """Whatever Python runs, which prints optional parts, empty lists and f-strings in other ways."""
    load = "ctx=Load()"
    x, spec = f"Name(id='x', {load})", "Constant(value='>'), FormattedValue(value=Constant(value=2), conversion=-1)"
    y = f"FormattedValue(value=Constant(value=1.5), conversion=-1, format_spec=JoinedStr(values=[{spec}]))"
    assert syntax(SOURCE) == (
        "Module(body=[Import(names=[alias(name='ast')]), "
        f"ClassDef(name='A', bases=[Name(id='B', {load})], "
        f"keywords=[keyword(arg='metaclass', value=Name(id='C', {load}))], body=["
        "FunctionDef(name='f', args=arguments(posonlyargs=[], args=[arg(arg='self'), arg(arg='x', "
        f"annotation=BinOp(left=Name(id='int', {load}), op=BitOr(), right=Constant(value=None)))], "
        "kwonlyargs=[arg(arg='y')], "
        f"kw_defaults=[JoinedStr(values=[{y}, FormattedValue(value={x}, conversion=114)])], "
        "defaults=[Constant(value=None)]), "
        f"body=[Return(value=Tuple(elts=[Constant(value=None), List(elts=[], {load}), "
        f"IfExp(test={x}, body={x}, orelse=Name(id='yield_', {load}))], {load}))], decorator_list=[])], "
        "decorator_list=[])], type_ignores=[])"
    )
