"""The command line: help, completion, mistakes in names, progress and Ctrl-C, as users meet them."""

import io
import os
import pty
import re
import subprocess
import sys
import termios
import tomllib
from pathlib import Path

import hydra
import pytest
from conftest import ROOT
from hydra.errors import HydraException

from losslab import progress
from losslab.commands import cli
from losslab.config.messages import sentence
from losslab.config.paths import CONF
from losslab.config.schema import Config


def run(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | environment)


def test_every_module_of_the_commands_is_a_verb_and_the_installed_command_is_theirs():
    names = {path.stem.replace("_", "-") for path in Path(cli.__file__).parent.glob("[!_]*.py")}
    assert names - {"cli"} == set(cli.VERBS)
    for verb in cli.VERBS:
        first, *rest = cli.docstring(cli.module(verb)).splitlines()
        assert len(first) < 120 and first.endswith(".")
        assert all(name in cli.VERBS for line in rest for name in re.findall(r"losslab ([a-z][a-z-]*)", line))
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"losslab": "losslab.commands.cli:main"}


@pytest.mark.parametrize("words", [["train.py"], ["-m", "losslab"], *(["-m", "losslab", verb] for verb in cli.VERBS)])
def test_help_is_short_and_imports_no_torch(root, tmp_path, words):
    (tmp_path / "train.py").symlink_to(root / "train.py")
    shown = run(tmp_path, *words, "--help", PYTHONPROFILEIMPORTTIME="1")
    assert shown.returncode == 0 and len(shown.stdout.splitlines()) < 64
    usage = cli.docstring(cli.module({"train.py": "train", "losslab": "cli"}.get(words[-1], words[-1])))
    assert shown.stdout.startswith(usage.split("{groups}")[0])
    assert "losslab" in shown.stderr and not re.search(r"\| +(torch|transformers)$", shown.stderr, re.M)
    assert not re.search(r"\| +(hydra|omegaconf|numpy|rich)$", shown.stderr, re.M)
    if len(words) == 2:
        assert set(re.findall(r"^  ([a-z-]+) ", shown.stdout, re.M)) == set(cli.VERBS)


@pytest.fixture(scope="module")
def text(root, tmp_path_factory) -> str:
    return run(tmp_path_factory.mktemp("help"), str(root / "train.py"), "--help").stdout


def test_help_of_training_names_every_group_and_only_keys_that_exist(root, text):
    groups = {path.name for path in (root / "conf").iterdir() if path.is_dir() and path.name != "hydra"}
    assert groups <= set(re.findall(r"^  (\w+): ", text, re.M))
    for group, key in re.findall(r"\b([a-z]+)\.([a-z_]+)=", text):
        assert hasattr(getattr(Config(), group), key), f"{group}.{key}"


@pytest.fixture
def conf(tmp_path) -> Path:
    """A folder of a user's own files, as `hydra.searchpath` names it."""
    for group, name in (("benchmark", "my_sums"), ("loss", "hinge"), ("model", "my_tiny")):
        (tmp_path / "my conf" / group).mkdir(parents=True)
        (tmp_path / "my conf" / group / f"{name}.yaml").write_text("path: x\n")
    return tmp_path / "my conf"


@pytest.mark.parametrize(
    ("wrong", "name"), [("benchmark=[my_sum]", "my_sums"), ("loss=hingee", "hinge"), ("model=my_tin", "my_tiny")]
)
def test_a_wrong_name_is_told_the_names_of_the_search_path(conf, wrong, name):
    """The nearest one, and all of them, beside those of conf/."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(HydraException) as error:
        hydra.compose("config", [f"hydra.searchpath=['{conf}']", wrong])
    near, _, names = sentence(error.value).partition("? There are ")
    assert near.endswith(f"does not exist; did you mean {name}") and name in names.split(", ")
    assert {"math500", "dft", "tiny"} & set(names.split(", "))


def test_help_names_the_files_of_the_search_path(conf):
    named = cli.groups([f"hydra.searchpath=[file://{conf}]"])
    for group, name in (("benchmark", "my_sums"), ("loss", "hinge"), ("model", "my_tiny")):
        listed = re.search(rf"^  {group}: (.*(?:\n {{8}}.*)*)", named, re.M)
        assert listed and name in re.split(r",?\s+", listed[1]) and name not in cli.groups([])


@pytest.mark.parametrize("command", ["python train.py", "losslab"])
def test_names_are_completed_by_bash(root, tmp_path, text, command):
    """Hydra's own bash function, on the line that the help says to evaluate."""
    (tmp_path / "train.py").symlink_to(root / "train.py")
    installed = tmp_path / "losslab"  # as pip writes it
    installed.write_text(f"#!{sys.executable}\nfrom losslab.commands.cli import main\nmain()\n")
    installed.chmod(0o755)
    advice = re.search(rf'eval "\$\({command}.*', text)
    assert advice
    lines = [advice[0]]
    cases = ["loss=d", "optimizer.", "experiment="]
    for words in [f"train {case}" for case in cases] + ["ta"] if command == "losslab" else cases:
        line = f"{command} {words}".split()
        lines.append(f'COMP_LINE="{" ".join(line)}"; COMP_WORDS=({" ".join(line)}); COMP_CWORD={len(line) - 1}')
        lines.append('hydra_bash_completion; printf "%s\\n" "${COMPREPLY[@]}"')
    path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
    bash = ["bash", "-c", "\n".join(lines)]
    done = subprocess.run(bash, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PATH": path})
    verbs = {"table"} if command == "losslab" else set()
    assert {"loss=dft", "loss=dpo", "optimizer.lr=", "experiment=demo"} | verbs <= set(done.stdout.split()), done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --plan", "--plan is not an option: options are written key=value, as in plan=true"),
        ("train loss=dtf", "loss=dtf does not exist; did you mean dft? There are "),
        ("evalute", "there is no verb evalute; did you mean evaluate?"),
        ("xyz", "there is no verb xyz; there are data, train, plan, "),
        ("table --all", "--all is not an option: options are written key=value; --help lists them"),
        ("table result=here", "unknown option result; did you mean results?"),
        ("table demmo", "no record of the sweep demmo under results: run it first, or give another sweep"),
        ("status wach=true", "unknown option wach; did you mean watch?"),
        ("status x retry=all", "retry=all does not exist: write retry=failed"),
        ("status watch=yes", "watch=yes is neither true nor false"),
        ("status cancel=true", "give the one sweep to cancel or to retry"),
        ("evaluate", "no model is given: add model=<hub id or folder>"),
        ("evaluate modle=x", "no model is given: add model=<hub id or folder>; did you mean model?"),
        ("compare a b verdit=official", "unknown option verdit; did you mean verdict?"),
        ("compare a", "a comparison takes two cells: losslab compare CELL CELL"),
        ("regrade a.jsonl", "regrading takes two files: losslab regrade IN.jsonl OUT.jsonl"),
        ("push repo=me/sums", "give the one cell whose model to upload: losslab push CELL "),
        ("toy-suite all", "all is not an option: options are written key=value, as in twins=table1"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments.split())
    printed = capsys.readouterr()
    assert ended.value.code == 2 and not printed.out
    (line,) = printed.err.splitlines()
    assert line.startswith(f"error: {message}")


def test_ctrl_c_while_libraries_load_is_one_line(root, tmp_path):
    """Later ones are in test_run: a cell has a state and a checkpoint then."""
    (tmp_path / "omegaconf.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    stopped = run(tmp_path, str(root / "train.py"), "loss=dft", "plan=true", PYTHONPATH=path)
    assert (stopped.returncode, stopped.stdout, stopped.stderr) == (130, "", "interrupted\n")


def test_progress_is_lines_where_there_is_no_terminal(monkeypatch):
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", output)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    with progress.bar("training", 3, "step") as bar:
        for _ in range(3):
            bar.set_postfix_str("loss 0.5")
            bar.update()
    lines = output.getvalue().split("\n")
    assert lines.pop() == "" and all(line.isprintable() for line in lines)
    assert lines[0].startswith("training: 0/3 [00:00<?") and re.fullmatch(
        r"training: 3/3 \[00:00<00:00, .*step/s, loss 0.5\]", lines[-1]
    )


def test_progress_is_a_bar_that_goes_on_a_terminal():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    code = "from losslab.progress import bar\nwith bar('training', 3, 'step') as b: b.update(3)"
    done = subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True)
    shown = os.read(ours, 10_000).decode()
    os.close(theirs)
    assert done.returncode == 0 and "training:   0%|" in shown
    assert shown.split("\r")[-1].strip() == ""  # nothing is left of it
