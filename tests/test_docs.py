"""What the documents say: every command is run here, or composed as far as it goes without a GPU, a hub or a cluster.

A command is a line of a `bash` block. `<!-- needs: gpu, hub -->` before a block says what it takes to run it; its
commands are still composed. The diffs of docs/adding.md are applied to a copy of the project, and what it says is run.
"""

import ast
import importlib.util
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from losslab.commands.cli import VERBS, main
from losslab.composition.compose import read, recorded_config
from losslab.composition.grid import overrides as grid
from losslab.composition.words import expanded
from losslab.config.paths import CONF
from losslab.objectives import Targets
from losslab.objectives.dft import DFT
from losslab.objectives.sft import SFT
from losslab.planning import plan
from losslab.records import code_snapshot

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")])
NEEDS = {"gpu", "hub", "cluster", "network"}
ROWS = '{"problem": "1+1=?", "solution": "2", "rejected": "3"}\n'


ONE_AFTER_ANOTHER = """
import json, sys
from losslab.commands.cli import main
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as ended:
        assert not ended.code, words
"""


@dataclass(frozen=True)
class Command:
    page: str
    words: tuple[str, ...]  # without assignments of variables before it
    needs: frozenset[str]

    @property
    def of_losslab(self) -> list[str]:
        """Verb and arguments, as train.py has them too; empty for another program."""
        words = list(self.words)
        return ["train", *words[2:]] if words[:2] == ["python", "train.py"] else words[1:] * (words[0] == "losslab")

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def blocks(page: Path, language: str) -> Iterator[tuple[str, frozenset[str]]]:
    """The fenced blocks of a language, with what the marker before them says they need."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"(?:<!-- needs: ([^\n]*) -->\n)?( *)```(\w+)\n(.*?)\n\2```", text, re.S):
        needs = frozenset(filter(None, re.split(r", *", match[1] or "")))
        assert needs <= NEEDS, f"{page.name}: {needs}"
        if match[3] == language:
            yield match[4], needs


def commands() -> Iterator[Command]:
    for page in PAGES:
        for block, needs in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                for part in re.split(r" && ", line):
                    words = shlex.split(part, comments=True)
                    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                        words.pop(0)
                    if words:
                        yield Command(page.name, tuple(words), needs)


COMMANDS = list(dict.fromkeys(commands()))


def of(*verbs: str) -> pytest.MarkDecorator:
    chosen = [command for command in COMMANDS if set(command.of_losslab[:1]) & set(verbs)]
    return pytest.mark.parametrize("command", chosen, ids=str)


@pytest.fixture(scope="module")
def tried(tmp_path_factory) -> Path:
    """A copy of the project with all diffs of docs/adding.md, and the records of what it runs."""
    project = code_snapshot.take(tmp_path_factory.mktemp("project"))
    adding = ROOT / "docs/adding.md"
    for diff, _ in blocks(adding, "diff"):
        done = subprocess.run(["git", "apply", "-"], cwd=project, input=diff + "\n", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    for language, file in {"python": "src/losslab/objectives/mine.py", "yaml": "conf/loss/mine.yaml"}.items():
        text = next(block for block, _ in blocks(ROOT / "README.md", language) if "Mine" in block)
        (project / file).write_text(textwrap.dedent(text))
    lines = [["plan", "experiment=demo", "loss=base,sft,dft,mine"]]  # of README.md
    lines += [command.of_losslab for command in COMMANDS if command.page == adding.name]
    quick = ["tracker=none", "machine.engine=transformers"]
    lines = [words + (quick if words[0] == "train" and "plan=true" not in words else []) for words in lines]
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_ANOTHER, json.dumps(lines)],
        cwd=project, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(project / "src")}, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (project / "printed.txt").write_text(done.stdout)
    return project


def test_what_docs_add_is_there_and_works(tried):
    printed = (tried / "printed.txt").read_text()
    assert "596M" in printed  # parameters of Qwen3-0.6B, its output layer tied
    states = [json.loads(path.read_text()) for path in tried.glob("results/cells/*/cell.json")]
    trained = {state["names"]["loss"]: state for state in states if state.get("state") == "done"}
    assert set(trained) == {"sft", "hinge"}
    (hinge,) = tried.glob("results/cells/tiny-sums-hinge-s0-*")
    first, second = [json.loads(line) for line in (hinge / "metrics.jsonl").read_text().splitlines()]
    assert first["mean_weight"] < 1 and first["loss"] < first["cross_entropy"]
    (scores,) = hinge.glob("scores/quick-*/scores.json")
    assert json.loads(scores.read_text())["benchmarks"]["my_sums"]["problems"] == 4
    table = (tried / "results/tables/knee/table.md").read_text()
    assert re.search(r"\| hinge [^|]*train.max_steps=2 \|.* \| 1 \|", table)  # beside the declared cells, as missing


@pytest.fixture
def place(tmp_path, checkpoint, tried, monkeypatch) -> Path:
    """A folder with what the names in the documents stand for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(ROWS)
    (tmp_path / "responses.jsonl").write_text(next(b for b, _ in blocks(ROOT / "docs/evaluation.md", "json")) + "\n")
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "checkpoint").symlink_to(checkpoint)
    (tmp_path / "results").mkdir()
    for model in ("qwen2.5-math-1.5b-numinamath_cot", "tiny-embedded"):  # what `losslab sample` leaves
        (tmp_path / "results/sampled" / model).mkdir(parents=True)
        for name in ("correct", "pairs", "graded"):
            (tmp_path / "results/sampled" / model / f"{name}.jsonl").write_text(ROWS)
    shutil.copytree(tried / "results/cells", tmp_path / "results/cells", symlinks=True)
    sft, hinge = (next((tmp_path / "results/cells").glob(f"tiny-sums-{loss}-s0-*")) for loss in ("sft", "hinge"))
    for name, cell in {"A": sft, "B": hinge, "CELL": hinge}.items():
        (tmp_path / "results/cells" / name).symlink_to(cell.name)
    return tmp_path


def real(word: str, place: Path) -> str:
    """A word of a command with the places of this machine in it."""
    for name in ("checkpoint", "benchmarks", "rows.jsonl"):
        word = word.replace(f"/path/to/{name}", str(place / name))
    return word.replace("/path/to/results", "results")


def composed(overrides: list[str], *before: str) -> None:
    """Compose the cells of a command, the first and the last one checked as a run would."""
    arguments = [*before, *expanded(overrides)]
    arguments.append("plan=true")  # what `losslab sample` makes need not be there
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain = [one for one in arguments if one.startswith(("experiment=", "hydra"))]
        cfg = compose("config", plain, return_hydra_config=True)
        OmegaConf.set_readonly(cfg, False)
        cfg.hydra.overrides.task = arguments
        cells = grid(cfg)
        for cell in {0: cells[0], -1: cells[-1]}.values():
            one = compose("config", cell, return_hydra_config=True)
            config = read(one, one.hydra.runtime.choices)
            if "plan=true" in overrides and config.reference.path is None:  # that model's files are on the hub
                assert plan.make(config).parameters > 0


@of("train", "plan", "sample", "probe")
def test_commands_of_training_compose(command, place, capsys, monkeypatch):
    if command.page == "adding.md" or "loss=base,sft,dft,mine" in command.words:
        return  # run in the copy of the project
    verb, *words = command.of_losslab
    overrides = [real(word, place) for word in words if not word.startswith("-")]
    flags = [word for word in words if word.startswith("-")]
    assert set(flags) <= {"-m", "--help", "--cfg", "-sc"}, flags
    if "--help" in flags or "-sc" in flags:
        return  # tests/test_cli.py
    if verb == "sample":
        composed([re.sub("^samples=", "eval.samples=", one) for one in overrides], "loss=base", "eval=sampling")
        return
    composed([*(one for one in overrides if one != "job"), *["plan=true"] * (verb == "plan")])
    looks = {"--cfg", "plan=true"} & set(words) or verb == "plan"
    tiny = any(word.startswith(("experiment=demo", "experiment=toy_suite", "model=tiny")) for word in command.words)
    assert looks or tiny or {"gpu", "cluster"} & command.needs, "it trains a large model: say so before its block"


@of("evaluate", "compare", "regrade")
def test_commands_of_evaluation_run_or_compose(command, place, capsys):
    words = [real(word, place) for word in command.of_losslab]
    if any(word.startswith("model=results/cells/CELL") for word in words):
        recorded_config(place / "results/cells/CELL/config.yaml", words[2:])
    elif any(word.startswith("model=") for word in words):
        composed(words[1:], "loss=base")
    else:
        main(words)
        assert capsys.readouterr().out


@of("data")
def test_commands_on_data_run_or_compose(command, place, capsys):
    _, *words = command.of_losslab
    if command.needs:
        own = ("row=", "ids=", "full=", "show=")
        composed([real(word, place) for word in words if not word.startswith(own)])
    else:
        main(["data", *words])
        assert "rows, " in capsys.readouterr().out


@of("race")
def test_commands_of_races_are_planned(command, place, capsys):
    main([*command.of_losslab, *(["plan=true"] if "plan=true" not in command.words else [])])
    assert "a race of" in capsys.readouterr().out


@of("table", "status", "report", "export", "push", "code-toolchains", "env")
def test_commands_on_records_run(command, place, capsys):
    if any(word.startswith(("cancel=", "retry=")) for word in command.words):
        return  # tests/test_slurm.py
    verb, *words = command.of_losslab
    names = [word if "=" in word or "/" in word else "knee" for word in words if word != "watch=true"]
    main([verb, *(real(word, place) for word in names)])
    assert capsys.readouterr().out


def test_the_objective_of_the_readme_is_half_sft_half_dft(tried):
    """That it is composed and planned is in `tried`; the like of it is trained in test_run.py."""
    module = runpy.run_path(str(tried / "src/losslab/objectives/mine.py"))
    named = yaml.safe_load((tried / "conf/loss/mine.yaml").read_text())
    assert named.pop("_target_") == "losslab.objectives.mine.Mine"
    none = torch.zeros(2)
    tokens = Targets(sequence=none.long(), sequences=1, logp=torch.tensor([-0.1, -2.0]), entropy=none)
    halves = 0.5 * SFT().loss(tokens) + 0.5 * DFT().loss(tokens)
    assert torch.allclose(module["Mine"](**named).loss(tokens), halves)


def test_every_command_is_one_of_these_or_says_what_it_needs():
    for command in COMMANDS:
        first, *rest = command.words
        if first == "losslab":
            assert rest[0] in VERBS, command
        if first == "python" and rest[0] != "-m":
            assert (ROOT / rest[0]).is_file(), command
            ast.parse((ROOT / rest[0]).read_text())
        if first == "python" and rest[0] == "-m":
            assert importlib.util.find_spec(rest[1]), command
        if first == "make":
            targets = [word for word in rest if "=" not in word]
            assert subprocess.run(["make", "--dry-run", *targets], cwd=ROOT, capture_output=True).returncode == 0, (
                command
            )
        if first == "pytest":
            assert all((ROOT / word).exists() for word in rest if word.startswith("tests")), command
        known = first in ("losslab", "python", "make", "pytest", "source", "cd")
        assert known or command.needs, f"{command}: mark what it needs, or run it in a test"


def test_commands_in_the_text_name_what_exists():
    """Those in `backticks`, which say what could be run."""
    for page in PAGES:
        prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
        for script, verb, target in re.findall(r"`(?:python (\w[\w/]*\.py)|losslab ([\w-]+)|make (\w+))[^`]*`", prose):
            if script:
                assert (ROOT / script).is_file(), f"{page.name}: {script}"
            elif verb:
                assert verb in VERBS, f"{page.name}: losslab {verb}"
            else:
                assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M), f"{page.name}: make {target}"


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if not link.startswith("http"):
                assert (page.parent / link).exists(), f"{page.name}: {link}"
    linked = set(re.findall(r"\(docs/(\w+\.md)", (ROOT / "README.md").read_text()))
    assert {page.name for page in ROOT.glob("docs/*.md")} <= linked, "README.md links every document"


def test_the_configuration_reference_is_that_of_the_schema():
    made = runpy.run_path(str(ROOT / "docs/make_configuration.py"))
    assert made["FILE"].read_text() == made["text"](), "stale: run `make docs`"


def test_keys_in_the_text_exist():
    groups = "train|machine|eval|optimizer|scheduler|tracker|sweep"
    known = set(re.findall(r"`([a-z_]+\.[a-z_]+)`", (ROOT / "docs/configuration.md").read_text()))
    for page in PAGES:
        for group, key in re.findall(rf"`({groups})\.(?!(?:py|log|json|yaml)`)([a-z_]+)[=`]", page.read_text()):
            assert f"{group}.{key}" in known, f"{page.name}: {group}.{key}"
