"""The commands as users type them: a sweep on the embedded world, skipping, failures, signals, resuming."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import warm
from place import LOSSLAB, PATIENCE
from safetensors.torch import load_file

from losslab.composition.compose import recorded_config
from losslab.composition.words import last_of_each
from losslab.config.schema import Config, Names, Stage
from losslab.files.json_files import write_json
from losslab.records.record import Cell, start_again

TINY = [
    "model=tiny",
    "dataset=embedded",
    "benchmark=[tiny_add]",
    "model.pretrain_rows=640",
    "dataset.rows=640",
    "train.batch_size=64",
    "train.max_length=256",
    "train.precision=fp32",
    "eval.samples=2",
    "eval.max_new_tokens=24",
    "machine.device=cpu",
    "machine.threads=1",
    "machine.engine=transformers",
    "tracker=none",
]
DFT = "loss._target_=losslab.objectives.dft.DFT"


def command(root: Path, *arguments: str, script: str = "train.py") -> list[str]:
    return [sys.executable, str(root / script), *last_of_each([*TINY, *arguments])]


def run(root: Path, folder: Path, *arguments: str, script: str = "train.py") -> subprocess.CompletedProcess:
    return warm.run(command(root, *arguments, script=script), folder)


def cells(folder: Path) -> dict[str, dict]:
    return {p.parent.name: json.loads(p.read_text()) for p in sorted(folder.glob("results/cells/*/cell.json"))}


@pytest.fixture(scope="module")
def sweep(root, tmp_path_factory):
    """One sweep with a cell that fails: its objective raises in the first step."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "broken.py").write_text(
        "from dataclasses import dataclass\nfrom losslab.objectives import Objective\n\n"
        "@dataclass(frozen=True)\nclass Broken(Objective):\n    floor: float = 0.0\n\n"
        "    def loss(self, t):\n        if len(t.logp) < 9:  # which a training does not have, and a trial has\n"
        "            return -t.logp\n        raise ArithmeticError('broken on purpose')\n"
    )
    targets = "loss._target_=broken.Broken,losslab.objectives.dft.DFT"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        words = command(root, "-m", targets, "seed=0,1")
        yield folder, subprocess.run(words, cwd=folder, capture_output=True, text=True)  # as a user's shell does


def test_a_failing_cell_does_not_stop_the_others(sweep):
    folder, done = sweep
    states = cells(folder)
    assert sorted(state["state"] for state in states.values()) == ["done", "done", "failed", "failed"], done.stderr
    assert done.returncode == 1
    failed = next(name for name, state in states.items() if state["state"] == "failed")
    assert states[failed]["error"] == "WorkerError: rank 0: ArithmeticError: broken on purpose"
    assert "raise ArithmeticError('broken on purpose')" in (folder / "results/cells" / failed / "error.txt").read_text()
    assert "2 of 4 cells failed; the same command retries them" in done.stderr
    assert "Traceback" not in done.stderr


def test_records_of_a_finished_cell(sweep):
    folder, _ = sweep
    name = next(name for name, state in cells(folder).items() if state["state"] == "done")
    cell = folder / "results/cells" / name
    files = {path.name for path in cell.iterdir()}
    assert {"config.yaml", "environment.json", "changes.diff", "cell.json", "metrics.jsonl", "model", "scores"} <= files
    assert len((cell / "metrics.jsonl").read_text().splitlines()) == 10
    environment = json.loads((cell / "environment.json").read_text())
    assert environment["versions"]["torch"] and "model=tiny" in environment["command"]
    (scores,) = cell.glob("scores/*/scores.json")
    found = json.loads(scores.read_text())
    assert found["benchmarks"]["tiny_add"]["samples"] == 2
    records = [json.loads(line) for line in scores.with_name("tiny_add.jsonl").read_text().splitlines()]
    assert {"text", "extracted", "official", "corrected", "finish_reason"} <= set(records[0]["samples"][0])


def test_the_table_and_the_page_show_what_is_missing(sweep):
    folder, done = sweep
    scores, passes = (folder / "results/tables/ablation/table.md").read_text().split("\n## pass@k")
    rows = [line for line in scores.splitlines() if line.startswith("| tiny")]
    assert len(rows) == 2 and "| tiny_add pass@2 |" in passes
    page = (folder / "results/reports/ablation.html").read_text()
    assert "report:  results/reports/ablation.html" in done.stdout
    assert page.count("raise ArithmeticError(&#39;broken on purpose&#39;)") == 2 and "<b>2<small>/4</small></b>" in page
    assert any("| – | – | 0/2 |" in row for row in rows) and any(row.endswith("| 2 |") for row in rows)
    assert (folder / "results/tables/ablation/figure.png").stat().st_size > 10_000


def test_finished_cells_are_skipped_and_tables_rebuilt(root, sweep):
    folder, _ = sweep
    before = (folder / "results/tables/ablation/table.md").read_text()
    again = run(root, folder, "seed=0")
    assert again.returncode == 0 and "already done, skipped" in again.stdout
    assert "before its questions" not in again.stderr + again.stdout
    protocols = list(folder.glob("results/cells/*-s0-*/scores/*/protocol.yaml"))
    texts = [protocol.read_text() for protocol in protocols]
    for protocol, text in zip(protocols, texts, strict=True):
        protocol.write_text(re.sub("tiny_add: [0-9a-f]+", "tiny_add: 0123", text))
    noticed = run(root, folder, "seed=0")
    assert "already done, skipped" in noticed.stdout
    told = noticed.stdout + noticed.stderr
    assert "the questions, golds or prompt of tiny_add have changed since the cell was scored" in told
    for protocol, text in zip(protocols, texts, strict=True):
        protocol.write_text(text)
    planned = run(root, folder, "-m", "seed=0,7", "plan=true")
    assert "done" in planned.stdout and "to run" in planned.stdout and len(cells(folder)) == 4
    (folder / "results/tables/ablation/table.md").unlink()
    built = warm.run([*LOSSLAB, "table"], folder)
    assert built.returncode == 0, built.stderr
    assert (folder / "results/tables/ablation/table.md").read_text() == before


def test_evaluate_scores_a_folder(root, sweep, tmp_path):
    folder, _ = sweep
    name = next(name for name, state in cells(folder).items() if state["state"] == "done")
    shutil.copytree(folder / "results/cells" / name / "model", tmp_path / "model")  # a folder that is no cell's
    arguments = [a for a in TINY if not a.startswith(("model", "dataset"))]
    words = [*LOSSLAB, "evaluate", *arguments, f"model={tmp_path / 'model'}", "sweep.name=checkpoints"]
    scored = warm.run(words, tmp_path)
    assert scored.returncode == 0, scored.stderr
    (base,) = cells(tmp_path)
    own = json.loads(next(tmp_path.glob(f"results/cells/{base}/scores/*/scores.json")).read_text())
    trained = json.loads(next(folder.glob(f"results/cells/{name}/scores/*/scores.json")).read_text())
    assert own["average"]["score"] == trained["average"]["score"]  # the same weights, seeds and engine


def test_steps_of_finished_cells_are_scored_and_drawn(root, sweep):
    folder, _ = sweep
    done = [name for name, state in cells(folder).items() if state["state"] == "done"]
    for name in done:
        cell = folder / "results/cells" / name
        shutil.copytree(cell / "model", cell / "steps/00000004")
    again = run(root, folder, "-m", "loss._target_=losslab.objectives.dft.DFT", "seed=0,1")
    assert again.returncode == 0 and "already done" not in again.stdout, again.stderr
    for name in done:
        (scores,) = (folder / "results/cells" / name).glob("scores/*/steps/00000004/scores.json")
        own, final = json.loads(scores.read_text()), json.loads((scores.parents[2] / "scores.json").read_text())
        assert own["average"] == final["average"]  # the same weights
    lines = [line.split(",") for line in (folder / "results/tables/ablation/steps.csv").read_text().splitlines()]
    assert [line[1:3] + line[5:] for line in lines[1:]] == [
        ["tiny_add", "4", "2"], ["tiny_add", "10", "2"], ["average", "4", "2"], ["average", "10", "2"],
    ]  # fmt: skip
    assert (folder / "results/tables/ablation/steps.png").stat().st_size > 5_000


def test_nothing_runs_when_one_cell_of_a_sweep_cannot(root, tmp_path):
    refused = run(root, tmp_path, "-m", "loss=sft,dpo")
    assert refused.returncode == 2 and not (tmp_path / "results").exists()
    assert refused.stderr.strip().splitlines()[-1].startswith("error: loss=dpo needs pairs of answers")


def test_a_broken_benchmark_shows_before_the_training(root, tmp_path):
    (tmp_path / "tiny_add.jsonl").write_text('{"question": "1+1=?", "answer": "2"}\n{"question"')
    failed = run(root, tmp_path, f"eval.data={tmp_path}")
    assert failed.returncode == 1 and "RuntimeWarning" not in failed.stderr
    ((name, state),) = cells(tmp_path).items()
    assert "tiny_add.jsonl:2: this line is not valid JSON, correct or remove it" in state["error"]
    assert not (tmp_path / "results/cells" / name / "metrics.jsonl").exists()


@pytest.fixture
def place(sweep, tmp_path) -> Path:
    """A folder with the sweep's base model, where no cell has run yet."""
    folder, _ = sweep
    (tmp_path / "results").mkdir()
    (tmp_path / "results/cache").symlink_to(folder / "results/cache")
    return tmp_path


@pytest.fixture
def finished(sweep, place) -> Path:
    """The sweep's finished cell of seed 0, copied there."""
    folder, _ = sweep
    name = next(name for name, state in cells(folder).items() if "dft-s0" in name and state["state"] == "done")
    return Path(shutil.copytree(folder / "results/cells" / name, place / "results/cells" / name))


def lines(folder: Path, pattern: str) -> list[str]:
    """The lines of the one file of a pattern; none where there is no such file."""
    return [line for file in folder.glob(pattern) for line in file.read_text().splitlines()]


def scores_of(cell: Path) -> dict:
    return json.loads(next(cell.glob("scores/*/scores.json")).read_text())


def wait_for(condition: Callable[[], bool], process: warm.Popen) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_ends_with_the_same_weights(root, sweep, place, number):
    folder, _ = sweep
    whole = next(folder.glob("results/cells/*dft-s0*/model/model.safetensors"))
    arguments = [DFT, "machine.checkpoint_steps=2"]
    process = warm.Popen(command(root, *arguments), cwd=place, start_new_session=True)
    cell = place / "results/cells" / whole.parent.parent.name
    wait_for(lambda: len(lines(cell, "metrics.jsonl")) >= 3, process)
    if number == signal.SIGTERM:
        process.terminate()
        assert process.wait(PATIENCE) == 75
        assert [state["state"] for state in cells(place).values()] == ["interrupted"]
    else:
        os.killpg(process.pid, number)
        process.wait(PATIENCE)
    assert not (cell / "model").exists() and list(cell.glob("checkpoints/step-*"))
    done = run(root, place, *arguments)
    assert done.returncode == 0, done.stderr
    mine, theirs = load_file(cell / "model/model.safetensors"), load_file(whole)
    assert all((mine[name] == theirs[name]).all() for name in theirs)
    assert [json.loads(line)["step"] for line in lines(cell, "metrics.jsonl")] == list(range(1, 11))


@pytest.mark.drill
def test_an_interrupted_on_policy_run_ends_with_the_same_weights(root, place, checkpoint):
    """Answers that are sampled after the interruption are those of the undisturbed run."""
    arguments = [
        "loss=opd", f"reference.path={checkpoint}", "loss.max_new_tokens=8", "train.batch_size=16", "train.max_steps=6",
        "machine.checkpoint_steps=2", "stage=train",
    ]  # fmt: skip
    whole = run(root, place, *arguments, "machine.results=whole")
    assert whole.returncode == 0, whole.stderr
    process = warm.Popen(command(root, *arguments), cwd=place, start_new_session=True)
    wait_for(lambda: len(lines(place, "results/cells/*/metrics.jsonl")) >= 3, process)
    process.terminate()
    assert process.wait(PATIENCE) == 75
    (cell,) = (place / "results/cells").iterdir()
    assert not (cell / "model").exists() and list(cell.glob("checkpoints/step-*"))
    done = run(root, place, *arguments)
    assert done.returncode == 0, done.stderr
    (undisturbed,) = (place / "whole/cells").iterdir()
    mine, theirs = (load_file(folder / "model/model.safetensors") for folder in (cell, undisturbed))
    assert mine.keys() == theirs.keys() and all((mine[name] == theirs[name]).all() for name in theirs)
    rows = [[json.loads(line) for line in lines(folder, "metrics.jsonl")] for folder in (cell, undisturbed)]
    assert [row["step"] for row in rows[0]] == list(range(1, 7))
    assert [row["reward"] for row in rows[0]] == [row["reward"] for row in rows[1]]


@pytest.mark.drill
def test_a_run_that_leaves_while_scoring_goes_on_from_its_samples(root, place):
    """SIGTERM to the run alone, then Ctrl-C, which a terminal sends to all of its processes."""
    arguments = ["-m", "loss=base", "seed=0,1", "eval.samples=4", "eval.max_new_tokens=80"]
    samples, kept = "results/cells/*-s0-*/scores/*/tiny_add.samples.jsonl", []
    for number in (signal.SIGTERM, signal.SIGINT):
        process = warm.Popen(command(root, *arguments), cwd=place, start_new_session=True)
        before = kept
        wait_for(lambda known=before: len(lines(place, samples)) > len(known), process)
        os.kill(process.pid, number) if number == signal.SIGTERM else os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 75 and "Traceback" not in errors, errors
        first, second = cells(place).values()
        assert first["state"] == "interrupted" and "state" not in second  # the next cell did not start
        wait_for_the_end_of_all(process.pid)
        kept = lines(place, samples)
        assert kept[: len(before)] == before and len(before) < len(kept) < 4 * 40
    done = run(root, place, *arguments)
    assert done.returncode == 0, done.stderr
    assert [(state["state"], state["attempts"]) for state in cells(place).values()] == [("done", 3), ("done", 1)]
    (cell,) = place.glob("results/cells/*-s0-*")
    assert scores_of(cell)["generation"]["samples"] == 4 * 40 - len(kept)
    records = [json.loads(line) for line in lines(cell, "scores/*/tiny_add.jsonl")]
    for row in map(json.loads, kept):
        assert records[row["index"]]["samples"][row["sample"]]["text"] == row["text"]


def wait_for_the_end_of_all(session: int) -> None:
    """Engines and servers notice the end of a run and leave too."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if not warm.in_session(session):
            return
        time.sleep(0.1)
    raise AssertionError(subprocess.run(["ps", "-s", str(session)], capture_output=True, text=True).stdout)


def test_force_runs_a_finished_cell_again_but_once(root, finished):
    before, weights = scores_of(finished), load_file(finished / "model/model.safetensors")
    arguments = [DFT, "force=true", "machine.checkpoint_steps=2"]
    place = finished.parents[2]
    process = warm.Popen(command(root, *arguments), cwd=place, start_new_session=True)
    wait_for(lambda: any(finished.glob("checkpoints/step-*")), process)  # a finished cell has none
    os.killpg(process.pid, signal.SIGKILL)  # it leaves no word that it was interrupted
    process.wait(PATIENCE)
    assert not (finished / "model").exists() and not (finished / "scores").exists()
    saved = max(int(path.name.removeprefix("step-")) for path in finished.glob("checkpoints/step-*"))
    kept = lines(finished, "metrics.jsonl")[:saved]  # with the seconds of each step
    assert len(kept) == saved < 10
    done = run(root, place, *arguments)
    assert done.returncode == 0, done.stderr
    (state,) = cells(place).values()
    assert (state["state"], state["attempts"]) == ("done", 2)
    assert lines(finished, "metrics.jsonl")[: len(kept)] == kept and len(lines(finished, "metrics.jsonl")) == 10
    again = load_file(finished / "model/model.safetensors")
    assert all((again[name] == weights[name]).all() for name in weights)
    after = scores_of(finished)
    assert after["generation"]["samples"] == 2 * 40
    assert (after["benchmarks"], after["average"]) == (before["benchmarks"], before["average"])


def test_what_is_interrupted_while_it_is_deleted_is_still_asked_for(tmp_path, monkeypatch):
    cell = Cell(tmp_path / "a", "a")
    write_json(cell.folder / "model/config.json", {})
    cell.update(state="done")
    start_again([cell])

    def interrupt(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shutil, "rmtree", interrupt)
        cell.clear()
    assert cell.asked_again and cell.model.exists()
    cell.clear()
    assert not cell.asked_again and not cell.model.exists()


def test_a_cell_that_was_forced_and_ended_is_no_part_of_a_later_force(tmp_path):
    """The first cell was forced and is done; the other one, of a larger sweep, was interrupted since."""
    config = Config(names=Names(model="tiny", dataset="rows", loss="sft", eval="paper"))
    config.loss = {"_target_": "losslab.objectives.sft.SFT"}
    first, second = (Cell(tmp_path / name, name) for name in "ab")
    for cell, stage in ((first, Stage.all), (second, Stage.train)):
        cell.update(state="done")
        start_again([cell])
        cell.clear()
        config.stage = stage
        cell.end(config)
    assert [cell.state()["state"] for cell in (first, second)] == ["done", "trained"]
    first.update(state="interrupted")
    start_again([first, second])
    assert [cell.asked_again for cell in (first, second)] == [False, True]
    second.clear()
    for cell in (first, second):
        cell.end(config)
    start_again([first, second])
    assert [cell.asked_again for cell in (first, second)] == [True, True]


def test_force_goes_on_where_it_was_interrupted(tmp_path):
    """The first cell has begun afresh and come to an end, the second one is on its way, the third one waits."""
    sweep = [Cell(tmp_path / name, name) for name in "abc"]
    for cell in sweep:
        cell.update(state="done")
    start_again(sweep)
    assert [cell.asked_again for cell in sweep] == [True, True, True]
    for cell, state in zip(sweep, ("done", "interrupted"), strict=False):
        cell.clear()
        cell.update(state=state)
    start_again(sweep)
    assert [cell.asked_again for cell in sweep] == [False, False, True]
    sweep[2].clear()
    sweep[2].update(state="failed")
    start_again(sweep)  # the second one is still on its way
    assert [cell.asked_again for cell in sweep] == [False, False, False]
    sweep[1].update(state="done")
    start_again(sweep)  # nothing is left of that call
    assert [cell.asked_again for cell in sweep] == [True, True, True]


@pytest.mark.drill
def test_ranks_that_wait_leave_with_the_one_that_scores(root, place):
    """Two processes as srun or torchrun starts them: the second one waits for the next cell when both are asked."""
    arguments = command(root, "-m", "loss=base", "seed=0,1", "eval.samples=4", "eval.max_new_tokens=80")
    samples = "results/cells/*-s0-*/scores/*/tiny_add.samples.jsonl"

    def start() -> list[warm.Popen]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        pair = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        return [
            warm.Popen(arguments, place, os.environ | pair | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(2)
        ]

    pair = start()
    wait_for(lambda: bool(lines(place, samples)), pair[0])
    for process in pair:
        process.terminate()
    errors = [process.communicate(timeout=PATIENCE)[1] for process in pair]
    assert [process.returncode for process in pair] == [75, 75], errors
    first, second = cells(place).values()
    assert first["state"] == "interrupted" and "state" not in second
    pair = start()
    errors = [process.communicate(timeout=PATIENCE)[1] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], errors
    assert [(state["state"], state["attempts"]) for state in cells(place).values()] == [("done", 2), ("done", 1)]


@pytest.mark.drill
def test_a_kill_between_training_and_the_measurement_of_its_probabilities(root, place):
    arguments = [DFT, "machine.probabilities=64", "machine.kl_to_base=16"]
    process = warm.Popen(command(root, *arguments), cwd=place, start_new_session=True)
    wait_for(lambda: any(place.glob("results/cells/*/model")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(PATIENCE)
    (cell,) = place.glob("results/cells/*")
    trained = {file: file.stat().st_mtime_ns for file in [cell / "metrics.jsonl", *(cell / "model").iterdir()]}
    assert not (cell / "probabilities.json").exists()
    done = run(root, place, *arguments)
    assert done.returncode == 0, done.stderr
    assert all(file.stat().st_mtime_ns == time for file, time in trained.items())  # it was not trained again
    found = json.loads((cell / "probabilities.json").read_text())
    before, after = found["before"], found["after"]
    assert found["examples"] == 64 and before["tokens"] == after["tokens"] == sum(before["counts"])
    assert before["counts"] != after["counts"]
    assert "| dft |" in (place / "results/tables/ablation/probabilities.md").read_text()
    (kl,) = cell.glob("scores/*/kl_to_base.json")
    of_samples = json.loads(kl.read_text())
    assert (of_samples["answers"], of_samples["benchmarks"]) == (16, ["tiny_add"]) and of_samples["per_token"][0] > 0
    assert "## KL to the base" in (place / "results/tables/ablation/table.md").read_text()
    for key, asked, there in (
        ("probabilities", "64", True),
        ("probabilities", "null", True),
        ("probabilities", "65", False),
        ("kl_to_base", "16", True),
        ("kl_to_base", "17", False),
    ):
        config = recorded_config(cell / "config.yaml", [f"machine.{key}={asked}"])
        assert Cell.at(cell).done(config) == there


def test_two_runs_at_once_make_one_cell(root, place):
    runs = [warm.Popen(command(root, DFT), cwd=place) for _ in range(2)]
    printed = ["".join(process.communicate(PATIENCE)) for process in runs]
    assert [process.returncode for process in runs] == [0, 0], printed
    assert sum("already done, skipped" in text for text in printed) == 1
    assert sum("10/10" in text for text in printed) == 1
    ((name, state),) = cells(place).items()
    assert (state["state"], state["attempts"]) == ("done", 1)
    steps = [json.loads(line)["step"] for line in lines(place / "results/cells" / name, "metrics.jsonl")]
    assert steps == list(range(1, 11))


def test_a_second_benchmark_leaves_the_first_one_alone(root, finished):
    def files() -> dict[str, tuple[int, bytes]]:
        kept = [finished / "metrics.jsonl", finished / "environment.json", *finished.glob("model/*")]
        return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in kept}

    (records,) = finished.glob("scores/*/tiny_add.jsonl")
    before, trained, first = records.read_bytes(), files(), scores_of(finished)["benchmarks"]["tiny_add"]
    done = run(root, finished.parents[2], DFT, "benchmark=[tiny_add,tiny_word]")
    assert done.returncode == 0, done.stderr
    found = scores_of(finished)
    assert found["generation"]["samples"] == 2 * 40  # of the new one
    assert list(found["benchmarks"]) == ["tiny_add", "tiny_word"] and found["benchmarks"]["tiny_add"] == first
    assert found["average"]["score"] == pytest.approx((first["score"] + found["benchmarks"]["tiny_word"]["score"]) / 2)
    assert records.read_bytes() == before and files() == trained


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_request_before_the_first_step_ends_the_run_at_once(root, place, number):
    """Loading may take as long as a scheduler's patience, and there is nothing to save yet."""
    process = warm.Popen(command(root, DFT), cwd=place, start_new_session=True)
    wait_for(lambda: any(state.get("state") == "training" for state in cells(place).values()), process)
    os.killpg(process.pid, number)  # to everybody, as SLURM and a terminal do
    assert process.wait(PATIENCE) == 75
    wait_for_the_end_of_all(process.pid)
    assert [state["state"] for state in cells(place).values()] == ["interrupted"]
    assert not lines(place, "results/cells/*/metrics.jsonl")


@pytest.mark.drill
def test_two_nodes_with_copies_of_the_weights_make_the_same_cell(root, sweep, place):
    """Two agents of torchrun with two ranks each: sharded within a node, summed across nodes."""
    folder, _ = sweep
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    arguments = command(root, DFT, "machine.sharding=hybrid")[1:]
    agents = [
        subprocess.Popen(
            [
                *(*torchrun, "--nnodes=2", f"--node-rank={rank}"),
                *("--master-addr=127.0.0.1", f"--master-port={port}", *arguments),
            ],
            cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    output = [agent.communicate(timeout=PATIENCE)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], output
    (state,) = cells(place).values()
    assert state["state"] == "done"
    whole = load_file(next(folder.glob("results/cells/*dft-s0*/model/model.safetensors")))
    mine = load_file(next(place.glob("results/cells/*/model/model.safetensors")))
    assert all((mine[name] - whole[name]).abs().max() < 1e-4 for name in whole)  # ten steps of AdamW apart
    for override in ("seed=0", "plan=true"):  # a finished cell and a plan end on every rank
        again = subprocess.run(
            [*torchrun, "--standalone", *arguments, override], cwd=place, capture_output=True, text=True,
            timeout=PATIENCE,
        )  # fmt: skip
        assert again.returncode == 0, again.stderr


def test_an_objective_is_one_file_and_one_yaml_anywhere(root, place):
    """As in the README, and outside of the package: composed, trained, scored, in the table."""
    (place / "conf/loss").mkdir(parents=True)
    (place / "conf/loss/mine.yaml").write_text("_target_: mine.Mine\nshare: 0.5\n")
    (place / "mine.py").write_text(
        "from dataclasses import dataclass\n\nfrom torch import Tensor\n\n"
        "from losslab.objectives import Objective, Targets\n\n\n"
        "@dataclass(frozen=True)\nclass Mine(Objective):\n    share: float = 0.5\n\n"
        "    def loss(self, t: Targets) -> Tensor:\n        return -(self.share + (1 - self.share) * t.p) * t.logp\n"
    )
    path = os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH")]))
    arguments = [f"hydra.searchpath=[file://{place}/conf]", "loss=mine", "loss.share=0.25"]
    done = warm.run(command(root, *arguments), place, os.environ | {"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    ((name, state),) = cells(place).items()
    assert state["state"] == "done" and "-mine-s0-" in name
    first = json.loads(lines(place, f"results/cells/{name}/metrics.jsonl")[0])
    p = first["mean_weight"]  # share + (1 - share) p, on average
    assert 0.25 < p < 1
    assert any("| mine" in line for line in lines(place, "results/tables/ablation/table.md"))
    mistaken = warm.run(command(root, *arguments[:2], "loss.shere=1"), place, os.environ | {"PYTHONPATH": path})
    assert mistaken.returncode == 2 and mistaken.stderr == "error: unknown key loss.shere; did you mean share?\n"
