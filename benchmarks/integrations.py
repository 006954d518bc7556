"""Training steps of TRL's SFTTrainer with its own losses and with objectives of losslab, on a CPU.

    python benchmarks/integrations.py                # writes results/benchmarks/integrations-cpu.md

Each contestant trains the same model on the same packed rows in a process of its own, with one thread. Times are CPU
seconds, so that what else runs on the machine counts little; memory is the peak beyond what the process held before.
"""

import argparse
import multiprocessing
import platform
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

CONTESTANTS = ("losslab, SFT", "losslab, DFT", "TRL, nll", "TRL, dft")
VOCABULARY, WIDTH, LAYERS, LENGTH = 151_936, 128, 2, 256
STEPS = 3  # of which the first warms up


def train(name: str) -> tuple[float, int, list[float]]:
    """CPU seconds of a step, bytes at the peak, and the losses of the steps."""
    torch.set_num_threads(1)
    from datasets import Dataset
    from transformers import Qwen2Config, Qwen2ForCausalLM, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from losslab.data import toy_task
    from losslab.integrations.sft_trainer import ObjectiveSFTTrainer
    from losslab.objectives.dft import DFT
    from losslab.objectives.sft import SFT

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True,
    )  # fmt: skip
    rows = torch.randint(VOCABULARY, (STEPS, LENGTH)).tolist()
    data = Dataset.from_dict({"input_ids": rows, "labels": rows})
    moments: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            moments.append(time.process_time())

    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {
            "output_dir": folder, "per_device_train_batch_size": 1, "max_steps": STEPS, "logging_steps": 1,
            "bf16": False, "optim": "sgd", "gradient_checkpointing": False, "report_to": [], "save_strategy": "no",
            "use_cpu": True, "learning_rate": 1e-3, "max_length": LENGTH, "disable_tqdm": True,
        }  # fmt: skip
        arguments: dict[str, Any] = {"train_dataset": data, "processing_class": toy_task.tokenizer()}
        arguments |= {"model": Qwen2ForCausalLM(config), "callbacks": [Clock()]}
        whose, kind = name.split(", ")
        if whose == "losslab":
            objective = {"SFT": SFT(), "DFT": DFT()}[kind]
            trainer: Any = ObjectiveSFTTrainer(args=SFTConfig(**options), objective=objective, **arguments)
        else:
            trainer = SFTTrainer(args=SFTConfig(**options, loss_type=kind), **arguments)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        trainer.train()
    extra = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    losses = [float(row["loss"]) for row in trainer.state.log_history if "loss" in row]
    return (moments[-1] - moments[0]) / (STEPS - 1), extra, losses


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    results: dict[str, tuple[float, int, list[float]]] = {}
    for name in CONTESTANTS:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            results[name] = process.submit(train, name).result()
    weight = 4 * VOCABULARY * WIDTH
    lines = [
        "# A step of TRL's SFTTrainer with its own losses and with losslab's (cpu)",
        "",
        f"Qwen2 of {LAYERS} layers, width {WIDTH}, vocabulary {VOCABULARY}, {LENGTH} labels in a step, float32, SGD; "
        f"one thread, CPU seconds, mean of the last {STEPS - 1} steps. For scale: the weight's gradient takes "
        f"{weight / 1e6:.0f} MB, the logits of all tokens {4 * VOCABULARY * LENGTH / 1e6:.0f} MB.",
        "",
        "| contestant | seconds a step | peak extra MB | losses |",
        "|---|---:|---:|---|",
    ]
    for name, (seconds, extra, losses) in results.items():
        lines.append(f"| {name} | {seconds:.2f} | {extra / 1e6:.0f} | {', '.join(f'{x:.5f}' for x in losses)} |")
    lines += ["", "`python benchmarks/integrations.py`", ""]
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl"))
    text = "\n".join([*lines, f"{platform.system()}, Python {platform.python_version()}, {libraries}.", ""])
    print(text)
    (Path(__file__).parents[1] / "results" / "benchmarks" / "integrations-cpu.md").write_text(text)


if __name__ == "__main__":
    main()
