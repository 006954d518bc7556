"""The command line: help, completion, mistakes in names, progress and Ctrl-C, as users meet them."""

import io
import os
import pty
import re
import runpy
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from conftest import ROOT

from losslab import progress
from losslab.config.schema import Config

SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))


def script(root: Path, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(root / arguments[0]), *arguments[1:]]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | environment, timeout=60)


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_is_short_and_imports_no_torch(root, tmp_path, name):
    shown = script(root, tmp_path, name, "--help", PYTHONPROFILEIMPORTTIME="1")
    assert shown.returncode == 0 and len(shown.stdout.splitlines()) < 60
    assert f"python {name}" in shown.stdout
    assert "losslab" in shown.stderr and not re.search(r"\| +(torch|transformers)$", shown.stderr, re.M)


@pytest.fixture(scope="module")
def text(root, tmp_path_factory) -> str:
    return script(root, tmp_path_factory.mktemp("help"), "train.py", "--help").stdout


def test_help_of_training_names_every_group_and_only_keys_that_exist(root, text):
    groups = {path.name for path in (root / "conf").iterdir() if path.is_dir() and path.name != "hydra"}
    assert groups <= set(re.findall(r"^(\w+): ", text, re.M))
    for group, key in re.findall(r"\b([a-z]+)\.([a-z_]+)=", text):
        assert hasattr(getattr(Config(), group), key), f"{group}.{key}"


def test_names_are_completed_by_bash(root, tmp_path, text):
    """Hydra's own bash function, on the line that the help says to evaluate."""
    (tmp_path / "train.py").symlink_to(root / "train.py")
    advice = re.search(r'eval "\$\(.*', text)
    assert advice
    lines = [advice[0]]
    for word in ("loss=d", "optimizer.", "experiment="):
        lines.append(f'COMP_LINE="python train.py {word}"; COMP_WORDS=(python train.py {word}); COMP_CWORD=2')
        lines.append('hydra_bash_completion; printf "%s\\n" "${COMPREPLY[@]}"')
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = ["bash", "-c", "\n".join(lines)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PATH": path})
    assert {"loss=dft", "loss=dpo", "optimizer.lr=", "experiment=demo"} <= set(done.stdout.split()), done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.py", "--plan"], "--plan is no option: options are written key=value, as in plan=true"),
        (["train.py", "loss=dtf"], "loss=dtf does not exist; did you mean dft?; there are "),
        (["table.py", "--all"], "--all is no option: options are written key=value; --help lists them"),
        (["table.py", "result=here"], "unknown option result; did you mean results?"),
        (["table.py", "demmo"], "no record of the sweep demmo under results: run it first, or name another sweep"),
        (["status.py", "wach=true"], "unknown option wach; did you mean watch?"),
        (["status.py", "x", "retry=all"], "retry=all means nothing: write retry=failed"),
        (["evaluate.py"], "no model is named: add model=<hub id or folder>"),
        (["evaluate.py", "modle=x"], "no model is named: add model=<hub id or folder>; did you mean model?"),
        (["evaluate.py", "compare=a,b", "verdit=official"], "unknown option verdit; did you mean verdict?"),
        (["evaluate.py", "compare=a"], "a comparison takes two runs: compare=A,B"),
    ],
)
def test_a_mistake_is_one_line(root, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(root / arguments[0]), run_name="__main__")
    printed = capsys.readouterr()
    assert ended.value.code == 2 and not printed.out
    (line,) = printed.err.splitlines()
    assert line.startswith(f"error: {message}")


def test_ctrl_c_while_libraries_load_is_one_line(root, tmp_path):
    """Later ones are in test_run: a cell has a state and a checkpoint then."""
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    stopped = script(root, tmp_path, "train.py", "loss=dft", "plan=true", PYTHONPATH=path)
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
