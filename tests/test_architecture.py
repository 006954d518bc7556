"""Which package may import which: the arrows of CONTRIBUTING.md."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest
from conftest import ROOT

PACKAGE = ROOT / "src/losslab"
MODULES = {
    ".".join(["losslab", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
# From the bottom to the top: a package imports only from those before it, inside of functions too.
ORDER = [
    "__init__", "keys", "objectives", "config", "files", "progress", "statistics", "pages", "distributed", "data",
    "models", "training", "integrations", "programs", "grading", "evaluation", "composition", "online", "records",
    "launchers", "results", "report", "tracking", "hub", "planning", "cells", "commands", "__main__",
]  # fmt: skip
TRAINING = {"models", "training", "online", "cells"}


def imports(name: str, everywhere: bool = True) -> set[str]:
    """The modules of losslab that a module imports; with `everywhere` also those imported inside of functions."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    targets = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("losslab"):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            targets |= {target if target in MODULES else str(node.module) for target in names}
        elif isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names} & set(MODULES)
    return targets - {name}


def package(name: str) -> str:
    """losslab.evaluation.scores -> evaluation; losslab itself -> __init__"""
    return name.removeprefix("losslab").removeprefix(".").split(".")[0] or "__init__"


def inside(*packages: str) -> list[str]:
    return [name for name in MODULES if package(name) in packages]


def test_there_are_two_levels_of_packages_and_each_has_its_place():
    assert {package(name) for name in MODULES} == set(ORDER)
    assert max(name.count(".") for name in MODULES) == 2


def test_modules_have_no_cycles():
    order = list(TopologicalSorter({name: imports(name, everywhere=False) for name in MODULES}).static_order())
    assert len(order) == len(MODULES) > 60


@pytest.mark.parametrize("name", sorted(MODULES))
def test_arrows_go_one_way(name):
    above = {target for target in imports(name) if ORDER.index(package(target)) > ORDER.index(package(name))}
    assert not above, f"{name} imports {above}, which are above it"


def test_objectives_know_tensors_alone():
    for name in inside("objectives"):
        assert {package(target) for target in imports(name)} <= {"keys", "objectives"}, name
        libraries = {
            node.module.split(".")[0]
            for node in ast.walk(ast.parse(MODULES[name].read_text()))
            if isinstance(node, ast.ImportFrom) and node.module
        }
        assert libraries <= {"losslab", "torch", "dataclasses", "typing", "collections", "abc"}, (name, libraries)


def test_evaluation_knows_nothing_of_training_and_readers_of_records_nothing_of_what_wrote_them():
    for name in inside("evaluation", "grading", "statistics", "results", "report", "tracking"):
        assert not {package(target) for target in imports(name)} & TRAINING, name


def test_the_schema_loads_nothing_heavy():
    assert {package(target) for target in imports("losslab.config.schema", everywhere=False)} <= {"keys", "config"}
    libraries = {name.split(".")[0] for name in sys.stdlib_module_names} | {"losslab", "omegaconf"}
    for name in ("losslab.config.schema", *imports("losslab.config.schema", everywhere=False)):
        for node in ast.parse(MODULES[name].read_text()).body:
            if isinstance(node, ast.ImportFrom):
                assert str(node.module).split(".")[0] in libraries, (name, node.module)


def test_what_plans_and_reads_loads_no_framework():
    """A plan and the readers of records answer at once: importing torch or transformers takes ten seconds."""
    modules = ["planning.plan", "composition.compose", "composition.grid", "results.write_tables", "report.page"]
    modules += ["launchers.status", "commands.forget", "data.toy_task"]
    code = f"import sys, losslab.{', losslab.'.join(modules)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "datasets", "matplotlib", "pandas"} & set(loaded)


def test_hydra_ends_at_the_edge():
    """Below it are plain dataclasses; `hydra.utils` looks names up, and needs no Hydra to run."""
    using = set()
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module and module.split(".")[0] == "hydra" and module != "hydra.utils":
                using.add(name.removeprefix("losslab."))
    assert using <= {
        "cells.sweep",
        "commands.toy_suite",
        "composition.compose",
        "composition.composing",
        "composition.experiment_files",
        "composition.grid",
        "config.errors",
        "launchers.local",
        "launchers.slurm",
        "results.setting_curves",
    }, using  # fmt: skip


# What another interface dictates: Triton has no structures, and torch's operators take and return plain tensors.
LONG = {"models.fused_loss_triton.rows_kernel"}
MANY_ARGUMENTS = {
    "keys.key",  # its bounds, by name
    "models.attention.packed_attention",  # as transformers calls an attention
    "models.flash_attention_4._",  # an operator of torch without values
    "models.flash_attention_4._backward",
    "models.flash_attention_4.flash_attention_4",
    "models.fused_loss.objective_loss",  # the one entry to the fused loss, for the loop and other trainers
    "models.fused_loss_triton._block",
    "models.fused_loss_triton.rows_kernel",
}


def test_functions_fit_on_a_screen_and_take_few_arguments():
    """At most 60 lines and 6 arguments, besides `self`, `cls` and the `ctx` of torch.autograd."""
    long, many = set(), set()
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                name, own = f"{module}.{node.name}".removeprefix("losslab."), node.args
                arguments = [*own.posonlyargs, *own.args, *own.kwonlyargs, own.vararg, own.kwarg]
                count = sum(each is not None and each.arg not in ("self", "cls", "ctx") for each in arguments)
                long |= {name} if node.end_lineno - node.lineno >= 60 else set()
                many |= {name} if count > 6 else set()
    assert (long, many) == (LONG, MANY_ARGUMENTS)
