"""The commands as users type them: a sweep on the embedded world, skipping, failures, signals, resuming."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

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


def command(root: Path, *arguments: str, script: str = "train.py") -> list[str]:
    return [sys.executable, str(root / script), *TINY, *arguments]


def run(root: Path, folder: Path, *arguments: str, script: str = "train.py") -> subprocess.CompletedProcess:
    return subprocess.run(command(root, *arguments, script=script), cwd=folder, capture_output=True, text=True)


def cells(folder: Path) -> dict[str, dict]:
    return {p.parent.name: json.loads(p.read_text()) for p in sorted(folder.glob("results/cells/*/cell.json"))}


@pytest.fixture(scope="module")
def sweep(root, tmp_path_factory):
    """One sweep with a cell that fails: its objective raises in the first step."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "broken.py").write_text(
        "from dataclasses import dataclass\nfrom losslab.objectives import Objective\n\n"
        "@dataclass(frozen=True)\nclass Broken(Objective):\n    floor: float = 0.0\n\n"
        "    def loss(self, t):\n        raise ArithmeticError('broken on purpose')\n"
    )
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), before]))
    targets = "loss._target_=broken.Broken,losslab.objectives.dft.DFT"
    done = run(root, folder, "-m", targets, "seed=0,1")
    yield folder, done
    os.environ["PYTHONPATH"] = before


def test_a_failing_cell_does_not_stop_the_others(sweep):
    folder, done = sweep
    states = cells(folder)
    assert sorted(state["state"] for state in states.values()) == ["done", "done", "failed", "failed"], done.stderr
    assert done.returncode == 1
    failed = next(name for name, state in states.items() if state["state"] == "failed")
    assert states[failed]["error"] == "WorkerError: rank 0: ArithmeticError: broken on purpose"
    assert "raise ArithmeticError('broken on purpose')" in (folder / "results/cells" / failed / "error.txt").read_text()
    assert "2 of 4 cells failed; the same command tries them again" in done.stderr
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


def test_the_table_shows_what_is_missing(sweep):
    folder, _ = sweep
    text = (folder / "results/tables/ablation/table.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| tiny")]
    assert len(rows) == 2
    assert any("| – | – | 0/2 |" in row for row in rows) and any(row.endswith("| 2 |") for row in rows)
    assert (folder / "results/tables/ablation/figure.png").stat().st_size > 10_000


def test_finished_cells_are_skipped_and_tables_rebuilt(root, sweep):
    folder, _ = sweep
    before = (folder / "results/tables/ablation/table.md").read_text()
    again = run(root, folder, "seed=0")
    assert again.returncode == 0 and "already done, skipped" in again.stdout
    planned = run(root, folder, "-m", "seed=0,7", "plan=true")
    assert "done" in planned.stdout and "to run" in planned.stdout and len(cells(folder)) == 4
    (folder / "results/tables/ablation/table.md").unlink()
    built = subprocess.run([sys.executable, root / "tabulate.py"], cwd=folder, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert (folder / "results/tables/ablation/table.md").read_text() == before


def test_evaluate_scores_a_folder(root, sweep, tmp_path):
    folder, _ = sweep
    name = next(name for name, state in cells(folder).items() if state["state"] == "done")
    shutil.copytree(folder / "results/cells" / name / "model", tmp_path / "model")  # a folder that is no cell's
    arguments = [a for a in TINY if not a.startswith(("model", "dataset"))]
    scored = subprocess.run(
        [sys.executable, root / "evaluate.py", *arguments, f"model={tmp_path / 'model'}", "sweep.name=checkpoints"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
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
    assert state["error"].endswith("tiny_add.jsonl:2: this is not a JSON object; every line must be one")
    assert not (tmp_path / "results/cells" / name / "metrics.jsonl").exists()


def wait_for(metrics: Path, steps: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not metrics.exists() or metrics.read_text().count("\n") < steps:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_ends_with_the_same_weights(root, sweep, tmp_path, number):
    folder, _ = sweep
    (tmp_path / "results").mkdir()
    (tmp_path / "results/cache").symlink_to(folder / "results/cache")  # the same base model
    whole = next(folder.glob("results/cells/*dft-s0*/model/model.safetensors"))
    arguments = ["loss._target_=losslab.objectives.dft.DFT", "machine.checkpoint_steps=2"]
    process = subprocess.Popen(command(root, *arguments), cwd=tmp_path, start_new_session=True)
    metrics = tmp_path / "results/cells" / whole.parent.parent.name / "metrics.jsonl"
    wait_for(metrics, 3, process)
    if number == signal.SIGTERM:
        process.terminate()
        assert process.wait(60) == 75
        assert [state["state"] for state in cells(tmp_path).values()] == ["interrupted"]
    else:
        os.killpg(process.pid, number)
        process.wait(60)
    assert not (metrics.parent / "model").exists() and list(metrics.parent.glob("checkpoints/step-*"))
    done = run(root, tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    mine, theirs = load_file(metrics.parent / "model/model.safetensors"), load_file(whole)
    assert all((mine[name] == theirs[name]).all() for name in theirs)
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == list(range(1, 11))


def test_two_processes_of_torchrun_make_the_same_cell(root, sweep, tmp_path):
    folder, _ = sweep
    (tmp_path / "results").mkdir()
    (tmp_path / "results/cache").symlink_to(folder / "results/cache")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = command(root, "loss._target_=losslab.objectives.dft.DFT")[1:]
    done = subprocess.run([*launcher, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (state,) = cells(tmp_path).values()
    assert state["state"] == "done"
    whole = load_file(next(folder.glob("results/cells/*dft-s0*/model/model.safetensors")))
    mine = load_file(next(tmp_path.glob("results/cells/*/model/model.safetensors")))
    assert all((mine[name] - whole[name]).abs().max() < 1e-4 for name in whole)  # ten steps of AdamW apart
    for override in ("seed=0", "plan=true"):  # a finished cell and a plan end on every rank
        again = subprocess.run(
            [*launcher, *arguments, override], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert again.returncode == 0, again.stderr
