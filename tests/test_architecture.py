"""Which module may import which: the arrows of CONTRIBUTING.md."""

import ast
from graphlib import TopologicalSorter

from conftest import ROOT

PACKAGE = ROOT / "src/losslab"
MODULES = {
    ".".join(["losslab", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
TRAINING = {"loop", "policy", "head", "launch", "checkpoint", "prepass", "diagnostics", "cell", "batches", "objectives"}
RUNNING = TRAINING | {"sweep", "scoring", "sampling", "online", "prepass", "probabilities"}


def imports(name: str, everywhere: bool = False) -> set[str]:
    """The modules of losslab that one imports: as it is loaded, or `everywhere`, inside of functions too."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("losslab"):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {one if one in MODULES else str(node.module) for one in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & set(MODULES)
    return found - {name}


def part(name: str) -> str:
    """losslab.evaluation.run -> evaluation"""
    return name.removeprefix("losslab.").split(".")[0]


def inside(*parts: str) -> list[str]:
    return [name for name in MODULES if part(name) in parts]


def test_there_are_no_cycles():
    order = list(TopologicalSorter({name: imports(name) for name in MODULES}).static_order())
    assert len(order) == len(MODULES) > 60


def test_objectives_know_tensors_alone():
    for name in inside("objectives"):
        assert {part(one) for one in imports(name, everywhere=True)} <= {"objectives"}, name
        libraries = {
            node.module.split(".")[0]
            for node in ast.walk(ast.parse(MODULES[name].read_text()))
            if isinstance(node, ast.ImportFrom) and node.module
        }
        assert libraries <= {"losslab", "torch", "dataclasses", "typing", "collections", "abc"}, (name, libraries)


def test_evaluation_knows_nothing_of_training():
    for name in inside("evaluation"):
        assert not {part(one) for one in imports(name, everywhere=True)} & RUNNING, name


def test_what_reads_records_knows_nothing_of_what_writes_them():
    for name in inside("tables", "collect", "curves", "render", "paper", "report", "trackers", "plots"):
        assert not {part(one) for one in imports(name, everywhere=True)} & RUNNING, name


def test_the_schema_and_the_command_line_load_nothing_heavy():
    assert imports("losslab.schema", everywhere=True) == imports("losslab.cli") == set()


def test_hydra_ends_at_the_edge():
    """Below it are plain dataclasses; `hydra.utils` looks names up, and needs no Hydra to run."""
    using = set()
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module and module.split(".")[0] == "hydra" and module != "hydra.utils":
                using.add(part(name))
    assert using <= {"compose", "sweep", "cli", "slurm", "local", "microcosm", "settings", "artefacts"}, using
