"""A cluster, a working folder, the commands that are run there, and what SLURM and the records say of its sweeps."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import warm
from safetensors.torch import load_file

from losslab.composition.words import last_of_each
from losslab.launchers import status

LOSSLAB = [sys.executable, "-m", "losslab"]

TINY = [
    "dataset=embedded",
    "benchmark=[tiny_add]",
    "dataset.rows=640",
    "train.batch_size=64",
    "train.max_length=256",
    "train.precision=fp32",
    "eval.samples=1",
    "eval.max_new_tokens=4",
    "machine.device=cpu",
    "machine.threads=1",
    "machine.engine=transformers",
    "tracker=none",
]
LAUNCHER = {"gpus_per_node": "null", "cpus_per_task": 1, "mem_gb": 1, "timeout_min": 30}
MODULES = {
    # Tells a step of training from what is measured beside it.
    "counted.py": """
import sys

def trains():
    frame = sys._getframe()
    while frame and frame.f_code.co_name != "forward_backward":
        frame = frame.f_back
    return frame is not None
""",
    # Waits in its third step as long as the file `hold` is there and nobody asks it to leave: the middle of training.
    "held.py": """
import os, signal, time
from dataclasses import dataclass
from counted import trains
from losslab.objectives import Objective

steps = 0

@dataclass(frozen=True)
class Held(Objective):
    def loss(self, t):
        global steps
        steps += trains()
        while steps > 2 and os.path.exists("hold") and not signal.getsignal(signal.SIGTERM).__self__.asked:
            time.sleep(0.1)
        return -t.logp
""",
    # Fails at its third step on one rank, until the file `mended` is there.
    "broken.py": """
import os
from dataclasses import dataclass
from counted import trains
from losslab.objectives import Objective

steps = 0

@dataclass(frozen=True)
class Broken(Objective):
    rank: int = 0

    def loss(self, t):
        global steps
        steps += trains()
        if steps == 3 and int(os.environ["RANK"]) == self.rank and not os.path.exists("mended"):
            raise ArithmeticError("broken on purpose")
        return -t.logp
""",
}
HELD = ["loss=sft", "loss._target_=held.Held", "machine.checkpoint_steps=2"]
PATIENCE = 900.0  # seconds for what takes some; nothing is asserted about how long


@dataclass(frozen=True)
class Cluster:
    """A SLURM that tests/slurm/cluster has started in a folder."""

    script: Path
    folder: Path

    def run(self, command: str, *arguments: str) -> None:
        done = subprocess.run([self.script, command, *arguments, self.folder], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def slurmd(self, node: str) -> int:
        """The process id of a node's daemon; ProcessLookupError where there is none."""
        found = int((self.folder / f"d.{node}.pid").read_text())
        os.kill(found, 0)
        return found

    def tidy(self) -> None:
        """Cancel all jobs, bring both nodes up, and wait until it is so."""
        subprocess.run(["scancel", "--user=root"], check=True)
        for node in ("n1", "n2"):
            with suppress(FileNotFoundError, ProcessLookupError):
                self.slurmd(node)
                continue
            self.run("up", node)
        deadline = time.monotonic() + PATIENCE
        while (
            said("squeue", "--noheader")
            or said("sinfo", "--noheader", "--partition=main", "--states=idle", "--format=%D") != "2"
        ):
            assert time.monotonic() < deadline, said("sinfo") + said("squeue")
            time.sleep(0.2)


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


class Place:
    """A working folder with a model, and the code to run there."""

    def __init__(self, folder: Path, code: Path, checkpoint: Path) -> None:
        self.folder, self.code = folder, code
        (folder / "modules").mkdir(parents=True)
        for name, text in MODULES.items():
            (folder / "modules" / name).write_text(text)
        (folder / "checkpoint").symlink_to(checkpoint)
        self.environment = os.environ | {"PYTHONPATH": f"{code / 'src'}:{folder / 'modules'}"}

    def command(self, *arguments: str, verb: str = "train") -> list[str]:
        return [*LOSSLAB, verb, *last_of_each(arguments)]

    def run(self, *arguments: str, verb: str = "train", prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
        command = self.command(*arguments, verb=verb)
        if not prefix and self.code == Path(__file__).resolve().parents[1]:  # the code that is imported already
            return warm.run(command, self.folder, self.environment)
        return subprocess.run(
            [*prefix, *command], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )

    def sweep(self, name: str, *arguments: str, **launcher: object) -> list[str]:
        """The arguments of a sweep of that name on SLURM."""
        chosen = LAUNCHER | launcher
        settings = [f"{'+' if '.' in key else ''}hydra.launcher.{key}={value}" for key, value in chosen.items()]
        return ["-m", *TINY, "model=./checkpoint", f"sweep.name={name}", *arguments, "hydra/launcher=slurm", *settings]

    def submit(self, name: str, *arguments: str, **launcher: object) -> subprocess.CompletedProcess:
        done = self.run(*self.sweep(name, *arguments, **launcher))
        assert done.returncode == 0, done.stderr
        return done

    def status(self, sweep: str) -> list[status.CellStatus]:
        return status.statuses(sweep, str(self.folder / "results"))

    def states(self, sweep: str) -> list[str]:
        return sorted(row.state for row in self.status(sweep))

    def cell(self, sweep: str) -> Path:
        (row,) = self.status(sweep)
        return row.folder

    def starts(self, sweep: str) -> int:
        return record(self.cell(sweep)).get("attempts", 0)

    def log(self, sweep: str) -> str:
        return (self.cell(sweep) / "logs/main.txt").read_text()

    def hold(self) -> None:
        (self.folder / "hold").touch()

    def release(self) -> None:
        (self.folder / "hold").unlink()

    def over(self, sweep: str) -> Callable[[], bool]:
        return lambda: all(state in status.FINAL for state in self.states(sweep)) and not queue(sweep)


def queue(sweep: str, form: str = "%i") -> list[str]:
    """SLURM's own list of a sweep's jobs."""
    return said("squeue", "--noheader", "--array", f"--name=losslab-{sweep}", f"--format={form}").split()


def until(reached: Callable[[], bool], place: Place, limit: float = PATIENCE) -> None:
    deadline = time.monotonic() + limit
    while not reached():
        assert time.monotonic() < deadline, ends(place)
        time.sleep(0.3)


def ends(place: Place) -> str:
    """The end of every log, and last what the records say of failures."""
    patterns = ("results/sweeps/*/*/jobs/*.err", "results/cells/*/logs/*", "results/cells/*/error.txt")
    files = [path for pattern in patterns for path in sorted(place.folder.glob(pattern)) if path.is_file()]
    return "\n".join(f"{path}:\n{path.read_text()[-1500:]}" for path in files)


def steps(place: Place, sweep: str, least: int) -> Callable[[], bool]:
    return lambda: any((row.step or 0) >= least for row in place.status(sweep))


def record(cell: Path) -> dict:
    return json.loads((cell / "cell.json").read_text())


def apart(one: Path, other: Path) -> float:
    """The largest difference between the weights of two cells."""
    mine, theirs = (load_file(cell / "model/model.safetensors") for cell in (one, other))
    return max(float((mine[name] - theirs[name]).abs().max()) for name in theirs)


def copy(root: Path, code: Path) -> None:
    """The project without its history, to be edited."""
    names = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, code / name, follow_symlinks=False)
