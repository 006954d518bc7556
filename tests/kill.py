"""Kills a real run with SIGKILL, starts it again, and compares its end with an undisturbed one.

    python tests/kill.py --moments 30        on two ranks of the CPU; --device cuda: on one GPU

Weights, metrics, samples and verdicts must be the same, bit by bit, and steps behind the newest checkpoint must not be
taken again. On the CPU two of three kills come at random moments of the whole run: imports, loading, reference pass,
steps, checkpoints, export, generation, grading, records; the third while a checkpoint is being written. On a GPU they
come in a step, while a checkpoint is being written and while scoring, in turn. Those of checkpoints, and half of those
at random moments, hit every process of the run, as a machine that stops does; the rest the launching process alone, as
the kernel's out-of-memory killer does.
"""

import argparse
import hashlib
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import warm

from losslab.files.json_files import read_json, read_lines

ROOT = Path(__file__).resolve().parents[1]
EVERY = 2  # steps between two checkpoints
SETTINGS = [
    "dataset=file", "loss=iw_sft", "optimizer=adamw", "train.batch_size=8", "train.epochs=5", "train.max_length=256",
    "benchmark=[tiny_add]", "eval.samples=2", "eval.max_new_tokens=16", "machine.engine=transformers",
    f"machine.checkpoint_steps={EVERY}", "machine.export_steps=5", "tracker=none",
]  # fmt: skip
DEVICES = {
    "cpu": ["machine.device=cpu", "machine.threads=1", "machine.workers=2"],
    "cuda": ["machine.device=cuda", "machine.deterministic=true"],
}


STARTED: list[warm.Popen] = []  # in sessions of their own, which a signal to this process does not reach


@dataclass(frozen=True)
class Kill:
    """What a kill hit: all processes stood still when it was looked at."""

    phase: str
    everything: bool
    rows: list[dict]  # of the metrics
    kept: int  # the steps that have a whole checkpoint, or the exported model, behind them

    def __str__(self) -> str:
        victim = "everything" if self.everything else "the launcher"
        return f"killed {victim}: {self.phase}, {self.kept} of {len(self.rows)} steps kept"


@dataclass
class Run:
    """A cell in a folder of its own."""

    folder: Path
    model: Path
    rows: Path
    device: str = "cpu"
    began: float = 0.0
    killed: list[warm.Popen] = field(default_factory=list)  # not waited for, as a parent that is busy does

    def start(self) -> warm.Popen:
        command = [
            sys.executable,
            str(ROOT / "train.py"),
            f"model={self.model}",
            f"dataset.path={self.rows}",
            *SETTINGS,
            *DEVICES[self.device],
        ]
        self.folder.mkdir(exist_ok=True)
        self.began = time.time()
        process = warm.Popen(command, self.folder, start_new_session=True, output=self.folder / "output.txt")
        STARTED.append(process)
        return process

    def finish(self) -> float:
        """Run to the end; returns the seconds it took."""
        status = self.start().wait()
        assert status == 0, (self.folder / "output.txt").read_text()
        return time.time() - self.began

    def kill(self, due: Callable[[], bool], everything: bool) -> Kill | None:
        """Start, kill when it is due; None when the run was done before."""
        process = self.start()
        while True:
            if (status := process.poll()) is not None:
                assert status == 0, (self.folder / "output.txt").read_text()
                return None
            if due():
                warm.signal_session(process.pid, signal.SIGSTOP)
                if due():  # a checkpoint may have become whole in between
                    break
                warm.signal_session(process.pid, signal.SIGCONT)
            time.sleep(0.001)
        rows = self.metrics()
        trained = any(self.folder.glob("results/cells/*/model"))
        hit = Kill(self.phase(), everything, rows, len(rows) if trained else self.checkpoint())
        if everything:
            warm.signal_session(process.pid, signal.SIGKILL)
        else:
            process.kill()
            warm.signal_session(process.pid, signal.SIGCONT)
        self.killed.append(process)
        return hit

    def new(self, pattern: str) -> bool:
        """Whether this start of the run has written such a file of the cell."""
        with suppress(FileNotFoundError):  # what goes while it is looked at
            paths = self.folder.glob(f"results/cells/*/{pattern}")
            return any(path.stat().st_mtime >= self.began for path in paths)
        return False

    def phase(self) -> str:
        """What the run is doing, from the files that it writes."""
        if not self.new("cell.json"):
            return "loading"
        state = read_json(next(self.folder.glob("results/cells/*/cell.json"))).get("state")
        if state in ("scoring", "done"):
            return "scoring" if state == "scoring" else "records"
        if self.new("checkpoints/.step-*.writing"):
            return "writing"
        if any(map(self.new, (".model.writing", "steps/.*.writing", "model"))):
            return "export"
        return "step" if self.new("metrics.jsonl") else "loading"

    def metrics(self) -> list[dict]:
        return [row for file in self.folder.glob("results/cells/*/metrics.jsonl") for row in read_lines(file)]

    def checkpoint(self) -> int:
        """The step of the newest checkpoint, 0 without one."""
        names = (path.name for path in self.folder.glob("results/cells/*/checkpoints/step-*"))
        return max((int(name.removeprefix("step-")) for name in names), default=0)

    def sampled(self) -> bool:
        """Whether there are samples of the finished model."""
        return any(file.stat().st_size for file in self.folder.glob("results/cells/*/scores/*/*.samples.jsonl"))

    def end(self) -> dict[str, object]:
        """What must not depend on the kills."""
        (cell,) = self.folder.glob("results/cells/*")
        assert json.loads((cell / "cell.json").read_text())["state"] == "done"
        (scores,) = cell.glob("scores/*/scores.json")
        records = [json.loads(line) for line in scores.with_name("tiny_add.jsonl").read_text().splitlines()]
        return {
            "weights": {
                str(file.relative_to(cell)): hashlib.sha256(file.read_bytes()).hexdigest()
                for file in sorted(cell.glob("**/*.safetensors"))
            },
            "metrics": [(row["step"], row["loss"], row["gradient_norm"], row["p_histogram"]) for row in self.metrics()],
            "samples": [record["samples"] for record in records],
            "average": json.loads(scores.read_text())["average"],
            "checkpoints": (cell / "checkpoints").exists(),
        }


def harness(
    folder: Path, model: Path, rows: Path, targets: list[str | None], seed: int, device: str = "cpu"
) -> list[Kill]:
    """Kill once for each target, over as many runs as it takes; returns what was hit.

    A target is a phase, `writing` (of a later checkpoint than was there), `step` (of the launcher alone) or `scoring`
    (with samples to come), or None for a random moment.
    """
    chance = random.Random(seed)
    undisturbed = Run(folder / "undisturbed", model, rows, device)
    seconds = undisturbed.finish()
    expected, left, kills, number = undisturbed.end(), list(targets), list[Kill](), 0
    assert expected["weights"] and expected["samples"]
    while left:
        run, own, number = Run(folder / f"run{number}", model, rows, device), list[Kill](), number + 1
        while left and len(own) < 4:
            target, moment, before = left[0], chance.uniform(0.2, 1.0) * seconds, run.checkpoint()

            def due(run=run, target=target, moment=moment, before=before) -> bool:
                if target == "writing":
                    return run.phase() == target and run.checkpoint() > before
                if target == "scoring":
                    return run.phase() == target and run.sampled()
                if target == "step":
                    return run.phase() == target
                return time.time() - run.began > moment

            hit = run.kill(due, everything=target == "writing" or (target is None and chance.random() < 0.5))
            if hit is None:
                break
            print(hit, flush=True)
            own.append(hit)
            left.pop(0)
        run.finish()
        found = run.end()
        for name, value in expected.items():
            assert found[name] == value, f"{name} of {run.folder} differ from the undisturbed run's"
        for hit in own:
            # A checkpoint is written while the steps after it are taken, and is whole when the next one begins.
            assert len(hit.rows) - hit.kept <= 2 * EVERY, hit
            # The seconds that a step took, among others, tell whether it was taken again.
            assert run.metrics()[: hit.kept] == hit.rows[: hit.kept], hit
        kills += own
        print(f"run {number}: ended as the undisturbed one", flush=True)
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))
    try:
        drill(chosen)
    finally:
        for process in STARTED:
            warm.signal_session(process.pid, signal.SIGKILL)


def drill(chosen: argparse.Namespace) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from losslab.data import toy_task

    with tempfile.TemporaryDirectory() as folder:
        model, rows = Path(folder) / "model", Path(folder) / "rows.jsonl"
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(toy_task.model_config()).save_pretrained(model)
        toy_task.tokenizer().save_pretrained(model)
        rows.write_text(
            "".join(
                json.dumps({"problem": f"{i}+{i}=?", "solution": f"{2 * i} " * (i % 9 + 1)}) + "\n" for i in range(40)
            )
        )
        if chosen.device == "cuda":  # whose first start takes longer than all others: a random moment may never come
            targets = [("step", "writing", "scoring")[i % 3] for i in range(chosen.moments)]
        else:
            targets = ["writing" if i % 3 == 2 else None for i in range(chosen.moments)]
        phases = [hit.phase for hit in harness(Path(folder), model, rows, targets, chosen.seed, chosen.device)]
    print("\n| phase | kills |\n|---|---:|")
    for phase in ("loading", "step", "writing", "export", "scoring", "records"):
        print(f"| {phase} | {phases.count(phase)} |")


if __name__ == "__main__":
    main()
