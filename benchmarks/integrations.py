"""TRL's SFTTrainer with objectives of losslab beside its own losses, on the same model and rows, in one run.

    python benchmarks/integrations.py                       # writes results/benchmarks/integrations.md
    python benchmarks/integrations.py --vocabulary 4096     # writes nothing, and takes seconds

A Qwen2 of one layer and width 384; rows of one length, without padding; SGD. Each contestant runs in processes of its
own, in turns with the others, and the best turn of each counts: CPU seconds of one thread, so that what else runs on
the machine counts little. Peak memory is that of the process above what it had before its first step. bfloat16 is TRL's
default; a processor without instructions for it computes it slowly, which losslab avoids by float32 products.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, TrainerCallback

from losslab.data import toy_task
from losslab.objectives import Objective
from losslab.objectives.dft import DFT
from losslab.objectives.sft import SFT
from losslab.records.environment import processor

STEPS, BATCH, LENGTH, PROMPT, WIDTH = 3, 2, 128, 32, 384  # the first step is one of warm-up
CONTESTANTS: dict[str, Objective | str] = {
    "losslab DFT": DFT(),
    "TRL dft": "dft",
    "losslab SFT": SFT(),
    "TRL nll": "nll",
}
PRECISIONS = ("float32", "bfloat16")
FILE = Path(__file__).parents[1] / "results" / "benchmarks" / "integrations.md"


class Clock(TrainerCallback):
    """CPU seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.process_time() - self.began)


def peak() -> int:
    """Bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def one(name: str, precision: str, vocabulary: int) -> dict[str, Any]:
    """Train in this process: losses of the steps, seconds of those after warm-up, and the memory that they took."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from losslab.integrations.sft_trainer import ObjectiveSFTTrainer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=1,
        num_attention_heads=6, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    ids = np.random.default_rng(0).integers(10, vocabulary, (STEPS * BATCH, LENGTH)).tolist()
    rows = [{"input_ids": row, "completion_mask": [0] * PROMPT + [1] * (LENGTH - PROMPT)} for row in ids]
    clock, loss = Clock(), CONTESTANTS[name]
    with tempfile.TemporaryDirectory() as scratch:
        arguments = SFTConfig(
            output_dir=scratch, max_steps=STEPS, per_device_train_batch_size=BATCH, bf16=precision == "bfloat16",
            use_cpu=True, report_to=[], save_strategy="no", learning_rate=1e-2, optim="sgd", disable_tqdm=True,
            logging_steps=1, completion_only_loss=True, max_length=LENGTH, gradient_checkpointing=False,
            **({"loss_type": loss} if isinstance(loss, str) else {}),
        )  # fmt: skip
        given = {"args": arguments, "train_dataset": Dataset.from_list(rows), "callbacks": [clock]}
        given["processing_class"] = toy_task.tokenizer()
        if isinstance(loss, str):
            trainer = SFTTrainer(model, **given)
        else:
            trainer = ObjectiveSFTTrainer(model, objective=loss, **given)
        before = peak()
        trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "grad_norm" in row]
    return {"losses": losses, "seconds": sum(clock.seconds[1:]), "peak": peak() - before}


def run(name: str, precision: str, vocabulary: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--vocabulary", str(vocabulary), "--one", name, precision]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def table(precision: str, results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A row for each contestant; TRL's stand beside ours of the same loss."""
    lines, tokens = [], (STEPS - 1) * BATCH * (LENGTH - PROMPT)
    for ours, theirs in (("losslab DFT", "TRL dft"), ("losslab SFT", "TRL nll")):
        both = [results[ours], results[theirs]]
        seconds = [min(turn["seconds"] for turn in turns) for turns in both]
        memory = [min(turn["peak"] for turn in turns) for turns in both]
        losses = [np.array(turns[0]["losses"]) for turns in both]
        apart = float(np.abs(losses[0] / losses[1] - 1).max())
        for i, name in enumerate((ours, theirs)):
            beside = (
                f" {seconds[1] / seconds[0]:.2f}× | {memory[0] / memory[1]:.2f} | {apart:.1e} |" if i == 0 else " | | |"
            )
            lines.append(f"| {precision} | {name} | {tokens / seconds[i]:,.0f} | {memory[i] / 1e9:.2f} |{beside}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("CONTESTANT", "PRECISION"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, precision = args.one
        print(json.dumps(one(name, precision, args.vocabulary)))
        return
    lines = [
        f"# TRL's SFTTrainer with losslab's loss and with its own (cpu, vocabulary {args.vocabulary:,})",
        "",
        f"{BATCH} rows of {LENGTH} tokens a step, {LENGTH - PROMPT} of each answer; a Qwen2 of one layer and width "
        f"{WIDTH}; one thread; {STEPS - 1} steps after one of warm-up, the best of {args.turns} turns, by CPU seconds. "
        "Memory is the peak above that before the first step, gradients included. Each row of losslab is compared with "
        "TRL's below it; the last column is the largest relative difference of their losses over the steps.",
        "",
        "| arithmetic | loss | answer tokens/s | peak GB | faster by | of its memory | losses differ by |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for arithmetic in PRECISIONS:
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
        for _ in range(args.turns):
            for name in CONTESTANTS:
                results[name].append(run(name, arithmetic, args.vocabulary))
        lines += table(arithmetic, results)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl"))
    lines += ["", f"`{' '.join(['python benchmarks/integrations.py', *sys.argv[1:]])}`", ""]
    load = f"load {os.getloadavg()[0]:.1f} at the end"
    lines += [f"{processor()}, {load}, {platform.system()}, Python {platform.python_version()}, {versions}.", ""]
    text = "\n".join(lines)
    print(text)
    if args.vocabulary == parser.get_default("vocabulary"):
        FILE.write_text(text)


if __name__ == "__main__":
    main()
