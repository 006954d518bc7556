"""Kills a real run with SIGKILL at random moments, starts it again, and compares its end with an undisturbed one.

    python tests/kill.py --moments 30

Weights, metrics, samples and verdicts must be the same, bit by bit. Moments are spread over the whole run: imports,
loading, reference pass, steps, checkpoints, export, generation, grading, records. Half of the kills hit every process
of the run, as a machine that stops does; the others the launching process alone, as the kernel's out-of-memory
killer does.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = [
    "dataset=file", "loss=iw_sft", "optimizer=adamw", "train.batch_size=8", "train.epochs=5", "train.max_length=256",
    "benchmark=[tiny_add]", "eval.samples=2", "eval.max_new_tokens=16", "machine.device=cpu", "machine.threads=1",
    "machine.engine=transformers", "machine.checkpoint_steps=2", "machine.export_steps=5", "tracker=none",
]  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A cell in a folder of its own."""

    folder: Path
    model: Path
    rows: Path

    def start(self) -> subprocess.Popen:
        command = [
            sys.executable,
            str(ROOT / "train.py"),
            f"model={self.model}",
            f"dataset.path={self.rows}",
            *SETTINGS,
        ]
        self.folder.mkdir(exist_ok=True)
        output = (self.folder / "output.txt").open("a")
        return subprocess.Popen(command, cwd=self.folder, stdout=output, stderr=output, start_new_session=True)

    def finish(self) -> float:
        """Run to the end; returns the seconds it took."""
        began = time.monotonic()
        status = self.start().wait()
        assert status == 0, (self.folder / "output.txt").read_text()
        return time.monotonic() - began

    def kill_after(self, seconds: float, everything: bool) -> str | None:
        """Start, kill after so many seconds; returns what the cell was doing, or None when it was done before."""
        process = self.start()
        try:
            status = process.wait(seconds)
            assert status == 0, (self.folder / "output.txt").read_text()
            return None
        except subprocess.TimeoutExpired:
            if everything:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.wait()
            state = next(self.folder.glob("results/cells/*/cell.json"), None)
            return json.loads(state.read_text()).get("state", "begun") if state else "starting"

    def end(self) -> dict[str, object]:
        """What must not depend on the kills."""
        (cell,) = self.folder.glob("results/cells/*")
        assert json.loads((cell / "cell.json").read_text())["state"] == "done"
        metrics = [json.loads(line) for line in (cell / "metrics.jsonl").read_text().splitlines()]
        (scores,) = cell.glob("scores/*/scores.json")
        records = [json.loads(line) for line in scores.with_name("tiny_add.jsonl").read_text().splitlines()]
        return {
            "weights": {
                str(file.relative_to(cell)): hashlib.sha256(file.read_bytes()).hexdigest()
                for file in sorted(cell.glob("**/*.safetensors"))
            },
            "metrics": [(row["step"], row["loss"], row["gradient_norm"], row["p_histogram"]) for row in metrics],
            "samples": [record["samples"] for record in records],
            "average": json.loads(scores.read_text())["average"],
            "checkpoints": (cell / "checkpoints").exists(),
        }


def harness(folder: Path, model: Path, rows: Path, moments: int, seed: int) -> list[str]:
    """Kill `moments` times, over as many runs as it takes; returns what was going on each time."""
    chance = random.Random(seed)
    undisturbed = Run(folder / "undisturbed", model, rows)
    seconds = undisturbed.finish()
    expected, seen, number = undisturbed.end(), list[str](), 0
    assert expected["weights"] and expected["samples"]
    while len(seen) < moments:
        run, number = Run(folder / f"run{number}", model, rows), number + 1
        for _ in range(min(4, moments - len(seen))):
            moment, everything = chance.uniform(0.2, 1.0) * seconds, chance.random() < 0.5
            state = run.kill_after(moment, everything)
            if state is None:
                break
            seen.append(state)
            print(f"killed {'everything' if everything else 'the launcher'} after {moment:.1f} s: {state}", flush=True)
        run.finish()
        found = run.end()
        for name, value in expected.items():
            assert found[name] == value, f"{name} of {run.folder} differ from the undisturbed run's"
        print(f"run {number}: ended as the undisturbed one", flush=True)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    import torch
    from transformers import AutoModelForCausalLM

    from losslab import world

    with tempfile.TemporaryDirectory() as folder:
        model, rows = Path(folder) / "model", Path(folder) / "rows.jsonl"
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(world.model_config()).save_pretrained(model)
        world.tokenizer().save_pretrained(model)
        rows.write_text(
            "".join(
                json.dumps({"problem": f"{i}+{i}=?", "solution": f"{2 * i} " * (i % 9 + 1)}) + "\n" for i in range(40)
            )
        )
        seen = harness(Path(folder), model, rows, chosen.moments, chosen.seed)
    print(f"{len(seen)} kills: " + ", ".join(f"{seen.count(state)} {state}" for state in sorted(set(seen))))


if __name__ == "__main__":
    main()
