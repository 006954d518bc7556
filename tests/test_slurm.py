"""Sweeps on a real SLURM cluster of two nodes on this machine (tests/slurm/cluster).

They run where LOSSLAB_SLURM=required, as in CI, and fail there if the cluster does not come up; elsewhere they are
skipped, since they start daemons as root. The drills, which wait for SLURM to notice a time limit, a dead node or a
preemption, take minutes each and depend on its clock: LOSSLAB_SLURM=drills runs them too.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from losslab import snapshot, status
from losslab.hold import hold

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
    # Takes its time as long as the file `hold` is there, so that it can be disturbed in the middle.
    "held.py": """
import os, time
from dataclasses import dataclass
from losslab.objectives import Objective

@dataclass(frozen=True)
class Held(Objective):
    def loss(self, t):
        if os.path.exists("hold"):
            time.sleep(2)
        return -t.logp
""",
    # Fails at its third step on one rank, until the file `mended` is there.
    "broken.py": """
import os
from dataclasses import dataclass
from losslab.objectives import Objective

steps = 0

@dataclass(frozen=True)
class Broken(Objective):
    rank: int = 0

    def loss(self, t):
        global steps
        steps += 1
        if steps == 3 and int(os.environ["RANK"]) == self.rank and not os.path.exists("mended"):
            raise ArithmeticError("broken on purpose")
        return -t.logp
""",
}
HELD = ["loss=sft", "loss._target_=held.Held", "dataset.rows=2560", "machine.checkpoint_steps=1000"]

DRILL = pytest.mark.skipif(os.environ.get("LOSSLAB_SLURM") != "drills", reason="minutes long: LOSSLAB_SLURM=drills")


@pytest.fixture(scope="module")
def cluster(root, tmp_path_factory) -> Iterator[Path]:
    """The script that drives the cluster, which is up meanwhile."""
    script, folder = root / "tests/slurm/cluster", tmp_path_factory.mktemp("slurm")
    if "LOSSLAB_SLURM" not in os.environ:
        pytest.skip("set LOSSLAB_SLURM=required, as root and after tests/slurm/cluster install, to run these tests")
    assert shutil.which("slurmctld"), "SLURM is not installed: run tests/slurm/cluster install as root"
    assert os.geteuid() == 0, "only root can start a cluster"
    started = subprocess.run([script, "start", folder], capture_output=True, text=True)
    assert started.returncode == 0, started.stderr
    before, os.environ["SLURM_CONF"] = os.environ.get("SLURM_CONF"), str(folder / "slurm.conf")
    try:
        yield script
    finally:
        subprocess.run([script, "stop", folder], check=True)
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before


class Place:
    """A working folder with a model, and the code to run there."""

    def __init__(self, folder: Path, code: Path, checkpoint: Path) -> None:
        self.folder, self.code = folder, code
        (folder / "modules").mkdir(parents=True)
        for name, text in MODULES.items():
            (folder / "modules" / name).write_text(text)
        (folder / "checkpoint").symlink_to(checkpoint)
        self.environment = os.environ | {"PYTHONPATH": f"{code / 'src'}:{folder / 'modules'}"}

    def command(self, *arguments: str, script: str = "train.py") -> list[str]:
        return [sys.executable, str(self.code / script), *arguments]

    def run(
        self, *arguments: str, script: str = "train.py", prefix: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess:
        command = [*prefix, *self.command(*arguments, script=script)]
        return subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)

    def sweep(self, name: str, *arguments: str, **launcher: object) -> list[str]:
        """The arguments of a sweep of that name on SLURM."""
        chosen = LAUNCHER | launcher
        settings = [f"{'+' if '.' in key else ''}hydra.launcher.{key}={value}" for key, value in chosen.items()]
        return ["-m", *TINY, "model=./checkpoint", f"sweep.name={name}", *arguments, "hydra/launcher=slurm", *settings]

    def submit(self, name: str, *arguments: str, **launcher: object) -> subprocess.CompletedProcess:
        done = self.run(*self.sweep(name, *arguments, **launcher))
        assert done.returncode == 0, done.stderr
        return done

    def status(self, sweep: str) -> list[status.Status]:
        return status.statuses(sweep, str(self.folder / "results"))

    def states(self, sweep: str) -> list[str]:
        return sorted(row.state for row in self.status(sweep))

    def cell(self, sweep: str) -> Path:
        (row,) = self.status(sweep)
        return row.folder

    def hold(self) -> None:
        (self.folder / "hold").touch()

    def release(self) -> None:
        (self.folder / "hold").unlink()

    def over(self, sweep: str) -> Callable[[], bool]:
        return lambda: all(state in status.FINAL for state in self.states(sweep)) and not queue(sweep)


@pytest.fixture
def place(cluster, root, checkpoint, tmp_path) -> Place:
    return Place(tmp_path, root, checkpoint)


def queue(sweep: str, form: str = "%i") -> list[str]:
    """SLURM's own list of a sweep's jobs."""
    command = ["squeue", "--noheader", "--array", f"--name=losslab-{sweep}", f"--format={form}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def until(reached: Callable[[], bool], place: Place, limit: float = 240) -> None:
    deadline = time.monotonic() + limit
    while not reached():
        assert time.monotonic() < deadline, "\n".join(
            f"{path}:\n{path.read_text()}"
            for pattern in ("results/cells/*/logs/*", "results/sweeps/*/*/jobs/*.err")
            for path in place.folder.glob(pattern)
        )
        time.sleep(0.3)


def until_started_again(place: Place, name: str) -> list[str]:
    """Wait for the second start of a cell; returns the states that status showed meanwhile."""
    seen: list[str] = []

    def reached() -> bool:
        (row,) = place.status(name)
        seen.append(row.state)
        return record(row.folder).get("attempts", 0) >= 2

    until(reached, place)
    return seen


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


def test_a_sweep_outlives_its_submitter_and_edits_of_the_code(cluster, root, checkpoint, tmp_path):
    code = tmp_path / "code"
    copy(root, code)
    place = Place(tmp_path / "work", code, checkpoint)
    arguments = place.sweep("grid", "loss=sft,dft", "seed=0,1", array_parallelism=2)
    submitter = subprocess.Popen(place.command(*arguments), cwd=place.folder, env=place.environment)
    until(lambda: any(place.folder.glob("results/sweeps/grid/*/submission.json")), place)
    submitter.send_signal(signal.SIGKILL)
    submitter.wait()
    (code / "src/losslab/loop.py").write_text("raise RuntimeError('edited')\n")
    shutil.rmtree(code / "conf/loss")
    assert len(queue("grid")) == 4
    until(place.over("grid"), place)
    rows = place.status("grid")
    assert [row.state for row in rows] == ["done"] * 4
    assert [(row.step, row.steps, row.tries) for row in rows] == [(10, 10, "1/10")] * 4
    assert len({record(row.folder)["job"] for row in rows}) == 4
    table = (place.folder / "results/tables/grid/table.md").read_text()  # by the last cell: nobody else is there
    assert [line.split("|")[-2].strip() for line in table.splitlines() if line.startswith("| checkpoint |")] == [
        "2",
        "2",
    ]
    (script,) = place.folder.glob("results/sweeps/grid/*/jobs/*_submission.sh")
    assert "--array=0-3%2" in script.read_text()


def test_two_nodes_make_the_same_weights_as_two_processes_of_one(place, root, checkpoint, tmp_path):
    """Also when the job is interrupted on both nodes, and goes on."""
    place.hold()
    held = [*HELD, "dataset.rows=640", "machine.workers=1"]
    place.submit("nodes", *held, nodes=2)
    one, ranks = (Place(tmp_path / name, root, checkpoint) for name in ("one", "ranks"))
    done = one.run(*TINY, "model=./checkpoint", *held, "machine.workers=2")
    assert done.returncode == 0, done.stderr
    until(steps(place, "nodes", 1), place)
    subprocess.run(["scancel", "--signal=USR2", *queue("nodes", "%A")], check=True)
    assert "preempted" in until_started_again(place, "nodes")
    place.release()
    until(place.over("nodes"), place)
    srun = ("srun", "--overcommit", "--mem=0", "--nodes=1", "--ntasks=2")
    done = ranks.run(*TINY, "model=./checkpoint", *held, prefix=srun)  # one process for each rank
    assert done.returncode == 0, done.stderr
    assert place.states("nodes") == ["done"]
    assert apart(place.cell("nodes"), one.cell("ablation")) <= 1e-6
    assert apart(ranks.cell("ablation"), one.cell("ablation")) <= 1e-6
    logs = {path.name: path.read_text() for path in (place.cell("nodes") / "logs").iterdir()}
    assert set(logs) == {"main.txt", "node-1.txt", "rank-1.out", "rank-1.err"}
    assert "tiny_add avg@1" in logs["main.txt"] and "tiny_add" not in logs["node-1.txt"]
    assert re.search(r"training \S+: [1-9]/10 \[00:00<", logs["main.txt"])  # the second start is no first step


def test_an_error_on_the_other_node_shows_once_with_its_rank(place):
    place.submit("other", "loss=sft", "loss._target_=broken.Broken", "+loss.rank=1", "machine.workers=1", nodes=2)
    until(place.over("other"), place)
    (row,) = place.status("other")
    assert (row.state, row.note) == ("failed", "WorkerError: rank 1: ArithmeticError: broken on purpose")
    texts = [path.read_text() for path in row.folder.glob("logs/*.txt")]
    assert "\n".join(texts).count("broken on purpose") == 1


@pytest.fixture(scope="module")
def places(cluster, root, checkpoint, tmp_path_factory) -> Callable[[str], Place]:
    return lambda name: Place(tmp_path_factory.mktemp(name), root, checkpoint)


@pytest.fixture(scope="module")
def whole(places) -> Path:
    """The cell that the disturbed ones are compared with: nobody disturbed it."""
    place = places("whole")
    done = place.run(*TINY, "model=./checkpoint", *HELD)
    assert done.returncode == 0, done.stderr
    return place.cell("ablation")


def idle() -> int:
    command = ["sinfo", "--noheader", "--partition=main", "--states=idle", "--format=%D"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout or 0)


def block_n1(*options: str) -> str:
    """Take room on n1 until the job, which is returned, is cancelled."""
    command = ["sbatch", "--parsable", "--nodelist=n1", "--output=/dev/null", "--wrap=sleep 600", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def on(node: str) -> dict[str, object]:
    return {"additional_parameters.nodelist": node}


def submit_held(*sweeps: tuple[Place, str, dict[str, object]]) -> None:
    """Submit a held cell for each (place, sweep, settings of the launcher)."""
    submitters = []
    for place, name, launcher in sweeps:
        place.hold()
        command = place.command(*place.sweep(name, *HELD, **launcher))
        submitters.append(subprocess.Popen(command, cwd=place.folder, env=place.environment))
    assert [one.wait() for one in submitters] == [0] * len(sweeps)


def check_disturbed(place: Place, name: str, whole: Path) -> None:
    """The cell was started again, went on from its checkpoint or from the start, and made the same weights."""
    (row,) = place.status(name)
    assert (row.state, row.step, row.steps) == ("done", 40, 40)
    tries, bound = map(int, row.tries.split("/"))
    assert 2 <= record(row.folder)["attempts"] <= tries < bound == 10
    assert apart(row.folder, whole) == 0
    lines = [json.loads(line)["step"] for line in (row.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(range(1, 41))


@DRILL
def test_a_time_limit_and_a_dead_node(cluster, places, whole):
    limit, death = places("limit"), places("death")
    blocker = block_n1("--cpus-per-task=1")  # so that the other one begins on n2
    timed = {"timeout_min": 1, "signal_delay_s": 30, **on("n1")}
    submit_held((limit, "limit", timed), (death, "death", {}))
    folder = Path(os.environ["SLURM_CONF"]).parent
    until(steps(death, "death", 1), death)
    assert json.loads((death.cell("death") / "holder.json").read_text())["node"] == "n2"
    subprocess.run([cluster, "down", "n2", folder], check=True)
    subprocess.run(["scancel", blocker], check=True)
    assert {"running", "preempted"} <= set(until_started_again(limit, "limit"))
    limit.release()
    until_started_again(death, "death")
    death.release()
    until(limit.over("limit"), limit)
    check_disturbed(limit, "limit", whole)
    assert re.search(
        rf"training {whole.name}: [1-9]\d*/40 \[00:00<", (limit.cell("limit") / "logs/main.txt").read_text()
    )
    until(death.over("death"), death)
    check_disturbed(death, "death", whole)
    subprocess.run([cluster, "up", "n2", folder], check=True)


@DRILL
def test_a_node_out_of_reach_gives_its_cell_up(cluster, places, whole):
    """Only slurmd is killed: the first start of the job lives on when the second one begins elsewhere."""
    place, folder = places("lost"), Path(os.environ["SLURM_CONF"]).parent
    until(lambda: idle() == 2, place)
    blocker = block_n1("--exclusive")
    submit_held((place, "lost", {}))
    until(steps(place, "lost", 1), place)
    first = json.loads((place.cell("lost") / "holder.json").read_text())
    os.kill(int((folder / "d.n2.pid").read_text()), signal.SIGKILL)
    subprocess.run(["scancel", blocker], check=True)
    until_started_again(place, "lost")
    place.release()
    until(place.over("lost"), place)
    check_disturbed(place, "lost", whole)
    assert (
        first["node"] == "n2" and "interrupted; the same command" in (place.cell("lost") / "logs/main.txt").read_text()
    )
    subprocess.run([cluster, "up", "n2", folder], check=True)


@DRILL
def test_preemption_and_the_bound_of_tries(places, whole):
    place, bounded = places("preempted"), places("bounded")
    until(lambda: idle() == 2, place)
    submit_held((place, "preempted", on("n1")), (bounded, "bounded", {"tries": 1, **on("n2")}))
    until(steps(place, "preempted", 1), place)
    until(steps(bounded, "bounded", 1), bounded)
    urgent = ["--partition=urgent", "--nodelist=n1", "--exclusive", "--output=/dev/null", "--wrap=sleep 2"]
    subprocess.run(["sbatch", *urgent], check=True)
    subprocess.run(["scancel", "--signal=USR1", *queue("bounded", "%A")], check=True)
    assert "preempted" in until_started_again(place, "preempted")
    assert list(place.cell("preempted").glob("checkpoints/step-*"))
    place.release()
    until(place.over("preempted"), place)
    check_disturbed(place, "preempted", whole)
    until(bounded.over("bounded"), bounded)
    (row,) = bounded.status("bounded")
    assert (row.state, row.note) == ("failed", "gave up after 1 tries: raise hydra.launcher.tries")
    assert 0 < row.step < 40


def test_a_sweep_submitted_twice_at_once_runs_each_cell_once(place):
    place.hold()
    arguments = place.sweep("twice", *HELD, "dataset.rows=640")
    both = [subprocess.Popen(place.command(*arguments), cwd=place.folder, env=place.environment) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0] and len(queue("twice")) == 2
    until(lambda: len(queue("twice")) == 1, place)  # one job has left the cell to the other one
    place.release()
    until(place.over("twice"), place)
    (row,) = place.status("twice")
    assert (row.state, row.tries, record(row.folder)["attempts"]) == ("done", "1/10", 1)
    text = (row.folder / "logs/main.txt").read_text()
    assert text.count("runs it; nothing to do here") == 1 and text.count("samples: 40/40") == 1


def test_nothing_is_submitted_when_one_cell_is_broken(place):
    done = place.run(*place.sweep("wrong", "loss=sft,dpo"))
    assert done.returncode == 2 and done.stderr.startswith("error: loss=dpo needs pairs of answers")
    assert not queue("wrong") and not (place.folder / "results").exists()


def test_a_failing_cell_and_its_retry(place):
    classes = "loss._target_=broken.Broken,losslab.objectives.sft.SFT"
    place.submit("failing", "loss=sft", classes)
    until(place.over("failing"), place)
    failed, done = sorted(place.status("failing"), key=lambda row: row.state, reverse=True)
    assert (failed.state, done.state, failed.step) == ("failed", "done", 2)
    assert failed.note == "WorkerError: rank 0: ArithmeticError: broken on purpose"
    shown = place.run("failing", script="status.py")
    assert shown.returncode == 0 and "1 failed, 1 done" in shown.stdout.replace("\n", " ")
    (place.folder / "mended").touch()
    again = place.run("failing", "retry=failed", script="status.py")
    assert again.returncode == 0 and "failing: 1 cells submitted" in again.stdout, again.stderr
    until(place.over("failing"), place)
    assert place.states("failing") == ["done", "done"]
    assert record(done.folder)["attempts"] == 1 and record(failed.folder)["attempts"] == 2
    nothing = place.run("failing", "retry=failed", script="status.py")
    assert nothing.returncode == 2 and "there is nothing to retry" in nothing.stderr


def test_a_job_that_dies_before_its_cell_begins(place):
    place.submit("stillborn", "loss=sft", container="/bin/false")  # a container that does not start
    until(lambda: place.states("stillborn") == ["failed"], place)
    (row,) = place.status("stillborn")
    assert row.note.startswith("its job ended with status 1, see ")
    refused = place.run(*place.sweep("refused", "loss=sft", partition="nowhere"))
    assert refused.returncode == 2 and "invalid partition" in refused.stderr.splitlines()[-1], refused.stderr


def test_cancel_and_retry(place):
    place.hold()
    place.submit("given_up", *HELD, "seed=0,1", array_parallelism=1)
    until(steps(place, "given_up", 1), place)
    assert place.states("given_up") == ["running", "waiting"]
    done = place.run("given_up", "cancel=true", script="status.py")
    assert (done.returncode, done.stdout) == (0, "given_up: 2 jobs cancelled\n"), done.stderr
    until(lambda: not queue("given_up"), place)
    assert place.states("given_up") == ["cancelled", "cancelled"]
    assert list(place.folder.glob("results/cells/*/checkpoints/step-*"))
    again = place.run("given_up", "retry=failed", script="status.py")
    assert again.returncode == 0, again.stderr
    assert len(queue("given_up")) == 2 and "cancelled" not in place.states("given_up")
    place.run("given_up", "cancel=true", script="status.py")


def test_scoring_as_a_job_of_its_own(place):
    place.submit("halves", "loss=sft", separate_evaluation="true", container="env")
    until(place.over("halves"), place)
    (row,) = place.status("halves")
    assert row.state == "done" and record(row.folder)["attempts"] == 2
    jobs = json.loads(next(place.folder.glob("results/sweeps/halves/*/submission.json")).read_text())["jobs"]
    assert len(jobs) == 2 and record(row.folder)["job"] == jobs[1]


def test_the_commands_of_the_guide(cluster, root, checkpoint, tmp_path):
    """Those of docs/slurm.md as they are written, with what makes the model tiny behind them."""
    code = tmp_path / "code"
    copy(root, code)
    place = Place(tmp_path / "work", code, checkpoint)
    page = (root / "docs/slurm.md").read_text()
    (settings,) = re.findall(r"```yaml\n(.*?)```", page, re.S)
    (code / "conf/hydra/launcher/mine.yaml").write_text(settings)
    _, _, plan, trial, sweep, after = re.findall(r"```bash\n(.*?)```", page, re.S)
    tiny = [argument for argument in TINY if argument not in ("dataset.rows=640", "benchmark=[tiny_add]")]
    tiny += ["model=./checkpoint", "dataset.rows=64", "train.max_steps=1", "benchmark=[tiny_add]"]
    launcher = [f"hydra.launcher.{key}={value}" for key, value in LAUNCHER.items() if key != "timeout_min"]
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text(
        f'#!/bin/sh\nscript=$1; shift\n[ $script != train.py ] || set -- "$@" {" ".join(map(repr, tiny))} $LAUNCHER\n'
        f'exec {sys.executable} {code}/$script "$@"\n'
    )
    python.chmod(0o755)
    place.environment |= {"PATH": f"{python.parent}:{os.environ['PATH']}", "COLUMNS": "200"}

    def run(commands: str, **environment: str) -> str:
        done = subprocess.run(
            ["bash", "-e", "-c", commands],
            cwd=place.folder, env=place.environment | environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    planned = run(plan, LAUNCHER="")
    assert "table1: 3 cells" in planned and "device hours of an H100" in planned
    assert "3 cells" in run(sweep.replace("hydra/launcher=slurm", "hydra/launcher=mine plan=true"), LAUNCHER="")
    assert "trial: 1 cells, 1 done" in run(trial, LAUNCHER=" ".join(launcher))
    assert "3 cells submitted as job" in run(sweep, LAUNCHER=" ".join(launcher))
    watch, cancel, retry, table = after.strip().splitlines()
    assert "table1: 3 cells, 3 done" in run(watch)
    until(place.over("table1"), place)
    assert "table1: 0 jobs cancelled" in run(cancel)
    assert "dft" in run(table) and place.states("table1") == ["done"] * 3
    again = subprocess.run(
        ["bash", "-c", retry], cwd=place.folder, env=place.environment, capture_output=True, text=True
    )
    assert again.returncode == 2 and "there is nothing to retry" in again.stderr


def test_several_cells_at_once_on_one_machine(root, checkpoint, tmp_path):
    place = Place(tmp_path, root, checkpoint)
    arguments = ["loss=sft", "loss._target_=losslab.objectives.sft.SFT,broken.Broken", "seed=0"]
    local = ["hydra/launcher=local", "hydra.launcher.processes=2"]
    done = place.run("-m", *TINY, "model=./checkpoint", *arguments, *local)
    assert done.returncode == 1
    failed, good = sorted(place.status("ablation"), key=lambda row: row.state, reverse=True)
    assert (failed.state, good.state) == ("failed", "done")
    started, ended = (done.stdout.index(f"{word}: {good.folder.name}") for word in ("started", "done"))
    assert done.stdout.count("started: ", 0, ended) == 2 and started < ended  # both were at work at once
    assert f"failed: {failed.folder.name}" in done.stdout
    assert "broken on purpose" in (failed.folder / "logs/main.txt").read_text()


def test_a_lock_that_does_not_reach_another_machine_is_noticed(tmp_path, monkeypatch):
    """A holder elsewhere that gives signs of life although its lock could be taken here."""
    monkeypatch.setattr("losslab.hold.BEAT_SECONDS", 0.5)
    (tmp_path / "holder.json").write_text(json.dumps({"job": "1", "host": "elsewhere", "restarts": 0}))
    beat = "import pathlib, time, sys\nwhile True: pathlib.Path(sys.argv[1]).touch(); time.sleep(0.2)"
    other = subprocess.Popen([sys.executable, "-c", beat, str(tmp_path / "holder.json")])
    try:
        with pytest.raises(ValueError, match="its lock does not reach this machine"), hold(tmp_path):
            pass
    finally:
        other.kill()
        other.wait()
    with hold(tmp_path):  # that machine is dead
        assert json.loads((tmp_path / "holder.json").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "holder.json").exists()


def test_a_snapshot_is_the_code_of_its_moment(root, tmp_path):
    copied = snapshot.take(tmp_path / "code")
    for name in ("src/losslab/loop.py", "conf/config.yaml", "conf/experiment/demo.yaml", "train.py"):
        assert (copied / name).read_bytes() == (root / name).read_bytes()
    about = json.loads((copied / "snapshot.json").read_text())
    command = [
        sys.executable,
        "-c",
        "from losslab import snapshot; print(snapshot.commit()); print(snapshot.changes())",
    ]
    environment = os.environ | {"PYTHONPATH": str(copied / "src")}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert said.strip() == f"{about['commit']}\n{about['changes']}".strip()
    assert not (copied / ".git").exists() and about["commit"] == snapshot.commit()
