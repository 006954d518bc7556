"""What happens to machines: time limits, preemption, shutdowns, nodes that die or get lost, on a real SLURM cluster.

Every drill waits for what it needs to have happened, and asserts what is left in the end: nothing depends on how fast
the machine is, or on which node a job gets first.
"""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from place import HELD, TINY, Place, apart, queue, record, said, steps, until

pytestmark = pytest.mark.timeout(3600)  # every wait has a limit of its own
TRAIN = [*HELD, "stage=train"]


@pytest.fixture(scope="module")
def places(slurm, root, checkpoint, tmp_path_factory) -> Callable[[str], Place]:
    return lambda name: Place(tmp_path_factory.mktemp(name), root, checkpoint)


@pytest.fixture(scope="module")
def whole(places) -> Path:
    """The cell that the disturbed ones are compared with: nobody disturbed it."""
    place = places("whole")
    done = place.run(*TINY, "model=./checkpoint", *TRAIN)
    assert done.returncode == 0, done.stderr
    return place.cell("ablation")


def submit_held(place: Place, name: str, node: str, **launcher: object) -> None:
    """Submit a cell to a node, and let it wait in the middle of its training."""
    place.hold()
    place.submit(name, *TRAIN, **{"additional_parameters.nodelist": node}, **launcher)


def job(name: str) -> str:
    (found,) = queue(name, "%A")
    return found


def update(name: str, change: str, place: Place) -> None:
    """Change a job that is in the queue; SLURM refuses while one is on its way there."""
    command = ["scontrol", "update", f"jobid={job(name)}", change]
    until(lambda: subprocess.run(command, capture_output=True).returncode == 0, place)


def check(place: Place, name: str, whole: Path) -> None:
    """The cell was started again and made the same weights as the undisturbed one, with one record of each step."""
    (row,) = place.status(name)
    assert (row.state, row.step, row.steps) == ("trained", 10, 10)
    tries, bound = map(int, row.tries.split("/"))
    assert 2 <= record(row.folder)["attempts"] <= tries < bound == 10
    assert apart(row.folder, whole) == 0
    lines = [json.loads(line)["step"] for line in (row.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(range(1, 11))


def check_went_on(place: Place, name: str) -> None:
    """It left with a checkpoint, and its last start went on from there."""
    assert "interrupted; the same command continues from here" in place.log(name)
    assert re.search(r"training \S+: [1-9]/10 \[00:00<", place.log(name))


def test_a_time_limit_a_preemption_and_a_shutdown(cluster, places, whole):
    limit, urged, shut = places("limit"), places("urged"), places("shut")
    # SLURM warns 20 minutes before the limit, which the cell will not come near before the limit is lowered.
    submit_held(limit, "limit", "n2", timeout_min=60, signal_delay_s=1200)
    submit_held(shut, "shut", "n2", tries=1)
    submit_held(urged, "urged", "n1")
    for place, name in ((limit, "limit"), (shut, "shut"), (urged, "urged")):
        until(steps(place, name, 2), place)

    update("limit", "timelimit=19", limit)
    subprocess.run(["scancel", "--full", "--signal=TERM", job("shut")], check=True)  # to every process of the job
    urgent = said(
        "sbatch", "--parsable", "--partition=urgent", "--nodelist=n1", "--exclusive", "--output=/dev/null",
        "--wrap=sleep 3600",
    )  # fmt: skip
    until(lambda: urged.states("urged") == ["preempted"], urged)  # it stays so while the other one has the node
    assert (urged.cell("urged") / "checkpoints/step-00000003").is_dir()  # of the step in which it was asked
    subprocess.run(["scancel", urgent], check=True)
    until(lambda: "interrupted; the same" in limit.log("limit"), limit)
    update("limit", "timelimit=60", limit)
    limit.release()
    urged.release()

    until(limit.over("limit"), limit)
    check(limit, "limit", whole)
    check_went_on(limit, "limit")
    assert "1 cells, 1 trained" in limit.run("limit", "watch=true", verb="status").stdout  # it ends
    until(urged.over("urged"), urged)
    check(urged, "urged", whole)
    check_went_on(urged, "urged")
    until(shut.over("shut"), shut)  # it was requeued, and that was one try too many
    (row,) = shut.status("shut")
    assert (row.state, row.note) == ("failed", "gave up after 1 tries: raise hydra.launcher.tries")
    assert 2 <= row.step < 10


def test_a_node_that_dies_and_one_out_of_reach(cluster, places, whole):
    """On the first node only slurmd is killed: a first start lives on while the second one begins elsewhere.

    The cells change places: SLURM goes on for a minute to send a node that failed the order to kill what ran there, and
    a second start there would get it.
    """
    death, lost = places("death"), places("lost")
    submit_held(lost, "lost", "n1")
    submit_held(death, "death", "n2")
    until(steps(lost, "lost", 2), lost)
    until(steps(death, "death", 2), death)
    before = json.loads((lost.cell("lost") / "holder.json").read_text())

    os.kill(cluster.slurmd("n1"), signal.SIGKILL)
    cluster.run("down", "n2")
    for place, name in ((lost, "lost"), (death, "death")):
        until(lambda name=name: queue(name, "%t") == ["PD"], place)
    os.kill(before["pid"], 0)
    update("lost", "reqnodelist=n2", lost)
    update("death", "reqnodelist=n1", death)
    cluster.run("up", "n2")
    until(lambda: lost.starts("lost") == 2, lost)
    lost.release()
    cluster.run("up", "n1")
    until(lambda: death.starts("death") == 2, death)
    death.release()

    until(lost.over("lost"), lost)
    check(lost, "lost", whole)
    check_went_on(lost, "lost")
    until(death.over("death"), death)
    check(death, "death", whole)
