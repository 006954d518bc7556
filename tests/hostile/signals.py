"""Signals at random moments of a real cell, which then goes on to the end of an undisturbed one."""

import hashlib
import json
import os
import random
import signal
import threading
import time
from pathlib import Path

from hostile.case import Case
from hostile.entry import command

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGKILL)
SETTINGS = (
    "dataset=file", "loss=iw_sft", "train.batch_size=8", "train.epochs=3", "train.max_length=256",
    "benchmark=[tiny_add]", "eval.samples=1", "eval.max_new_tokens=8", "machine.device=cpu", "machine.threads=1",
    "machine.engine=transformers", "machine.checkpoint_steps=2", "tracker=none", "machine.results=results",
)  # fmt: skip


def command_line(model: Path, rows: Path) -> tuple[str, ...]:
    return ("train", f"model={model}", f"dataset.path={rows}", *SETTINGS)


def end(folder: Path) -> dict[str, object]:
    """What must not depend on a signal."""
    (cell,) = folder.glob("results/cells/*")
    metrics = [json.loads(line) for line in (cell / "metrics.jsonl").read_text().splitlines()]
    (scores,) = cell.glob("scores/*/scores.json")
    return {
        "state": json.loads((cell / "cell.json").read_text())["state"],
        "weights": hashlib.sha256((cell / "model/model.safetensors").read_bytes()).hexdigest(),
        "metrics": [(row["step"], row["loss"]) for row in metrics],
        "average": json.loads(scores.read_text())["average"],
    }


def cases(count: int, model: Path, rows: Path, seconds: float, expected: dict[str, object]) -> list[Case]:
    """Signals in turn, each at a random moment of a cell that takes so many seconds."""
    chance = random.Random(6)
    return [make(SIGNALS[i % len(SIGNALS)], chance.uniform(0, seconds), model, rows, expected) for i in range(count)]


def make(number: signal.Signals, moment: float, model: Path, rows: Path, expected: dict[str, object]) -> Case:
    arguments = command_line(model, rows)

    def run() -> None:
        if (child := os.fork()) == 0:
            os.setpgid(0, 0)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            command(*arguments)()
            os._exit(0)
        threading.Timer(moment, lambda: os.kill(child, number)).start()
        began = time.monotonic()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(f"\n{number.name} after {moment:.2f} s: exit status {status} after {time.monotonic() - began:.2f} s")
        command(*arguments)()

    def same(folder: Path, output: str) -> str | None:
        if "Traceback" in output:
            return None
        reached = end(folder)
        different = [name for name in expected if reached[name] != expected[name]]
        return f"lost: {different[0]} differs from the undisturbed run's" if different else None

    return Case("signal", f"{number.name} after {moment:.1f} s", run, (), verify=same, seconds=900)
