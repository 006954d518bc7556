"""Whole training steps of losslab beside TRL's SFTTrainer, on the same model and sequences, in one run.

    pip install trl
    python benchmarks/step.py                    # a vocabulary of 151,936
    python benchmarks/step.py --vocabulary 4096
    python benchmarks/step.py --rows math.jsonl  # worked solutions (problem, solution) in place of made-up lengths
    python benchmarks/step.py --precision fp32   # in float32, as on a processor whose bfloat16 products are slow

A Qwen2 of 25M parameters in its body; sequences of log-normal length up to 2048, most of them answer. Each contestant
runs in its own process: one step of warm-up, then the measured ones. Prints a table and writes it to
results/benchmarks/. Answer tokens a second is the measure, since they are what is trained.
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
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoModelForCausalLM, Qwen2Config

from losslab.records.environment import processor

ARITHMETIC = {"bf16": "bfloat16", "fp32": "float32"}
STEPS, BATCH, LENGTH = 3, 8, 2048
CONTESTANTS: dict[str, dict[str, Any]] = {
    "losslab, DFT": {"loss": "losslab.objectives.dft.DFT"},
    "losslab, SFT": {"loss": "losslab.objectives.sft.SFT"},
    "TRL dft, defaults": {"loss_type": "dft"},
    "TRL dft, packing": {"loss_type": "dft", "packing": True, "max_length": LENGTH},
    "TRL nll (chunked), defaults": {"loss_type": "nll"},
}


def instructions() -> str:
    """The widest vector instructions that torch and oneDNN use here; environment variables can lower them."""
    vectors = torch.backends.cpu.get_cpu_capability()
    most = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT")  # of matrix products
    if most != "DEFAULT":
        return f"{vectors}, products by {most}"
    bfloat16 = "amx" if torch.cpu._is_amx_tile_supported() else "avx512_bf16"
    return f"{vectors}, {bfloat16}" if torch.cpu._is_avx512_bf16_supported() else vectors


def sequences(vocabulary: int, rows: str | None) -> list[tuple[list[int], int]]:
    """(token ids, length of the prompt) of the sequences of all steps.

    Real rows are cut by a byte-level BPE of 32,000 tokens trained on them: their ids are few, their lengths real.
    """
    rng = np.random.default_rng(0)
    if rows is not None:
        data = [json.loads(line) for line in Path(rows).read_text().splitlines()]
        tokenizer = ByteLevelBPETokenizer()
        tokenizer.train_from_iterator((row["problem"] + row["solution"] for row in data), 32_000, show_progress=False)
        chosen = [data[i] for i in rng.permutation(len(data))[: (STEPS + 1) * BATCH]]
        heads, answers = ([tokenizer.encode(row[key]).ids for row in chosen] for key in ("problem", "solution"))
        return [((h + a + [1])[:LENGTH], len(h)) for h, a in zip(heads, answers, strict=True)]
    found = []
    for _ in range((STEPS + 1) * BATCH):
        length = int(np.clip(rng.lognormal(5.5, 0.8), 32, LENGTH))
        found.append((rng.integers(10, vocabulary, length).tolist(), max(1, length // 4)))
    return found


def make_model(folder: Path, vocabulary: int) -> None:
    config = Qwen2Config(
        vocab_size=vocabulary, hidden_size=384, intermediate_size=2304, num_hidden_layers=6, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=LENGTH, tie_word_embeddings=True,
        pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    from losslab.data import toy_task

    toy_task.tokenizer().save_pretrained(folder)


def run_losslab(options: dict, folder: Path, found: list[tuple[list[int], int]]) -> list[tuple[float, int]]:
    """(seconds, answer tokens) of each measured step."""
    from losslab.config.machine import MachineConfig
    from losslab.config.schema import Config, ModelConfig, OptimizerConfig, Precision, TrainConfig
    from losslab.data.examples import Examples
    from losslab.training.loop import train

    lengths = np.array([len(ids) for ids, _ in found])
    tokens = np.concatenate([np.array(ids, dtype=np.int32) for ids, _ in found])
    prompts = np.array([prompt for _, prompt in found])
    with tempfile.TemporaryDirectory() as scratch:
        Examples(tokens, np.r_[0, lengths.cumsum()], prompts, "", {}).save(Path(scratch) / "data")
        config = Config(
            model=ModelConfig(path=str(folder)),
            loss={"_target_": options["loss"]},
            optimizer=OptimizerConfig("torch.optim.AdamW", 1e-5, arguments={"fused": True}),
            train=TrainConfig(batch_size=BATCH, max_steps=STEPS + 1, precision=Precision(options["precision"])),
            machine=MachineConfig(device="cpu", micro_batch_tokens=2048),  # type: ignore[arg-type]
        )
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        os.environ |= alone | {"MASTER_ADDR": "localhost", "MASTER_PORT": "29555"}
        train(config, f"{scratch}/data", scratch, "")
        rows = [json.loads(line) for line in (Path(scratch) / "metrics.jsonl").read_text().splitlines()]
    return [(row["seconds"], row["answer_tokens"]) for row in rows[1:]]


def run_trl(options: dict, folder: Path, found: list[tuple[list[int], int]]) -> list[tuple[float, int]]:
    """(seconds, answer tokens) of each measured step; packed rows hold other numbers of sequences."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    steps: list[tuple[float, int]] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: object, **__: object) -> None:
            self.began, self.answers = time.perf_counter(), 0

        def on_step_end(self, *_: object, **__: object) -> None:
            steps.append((time.perf_counter() - self.began, self.answers))

    clock = Clock()

    class Counting(SFTTrainer):
        def compute_loss(self, model: Any, inputs: Any, *rest: Any, **options: Any) -> Any:
            clock.answers += int((inputs["labels"] != -100).sum())
            return super().compute_loss(model, inputs, *rest, **options)

    rows = [{"input_ids": ids, "completion_mask": [0] * prompt + [1] * (len(ids) - prompt)} for ids, prompt in found]
    with tempfile.TemporaryDirectory() as scratch:
        bf16 = options.pop("precision") == "bf16"
        arguments = {"max_length": LENGTH} | options
        micro = 4
        config = SFTConfig(
            output_dir=scratch, max_steps=STEPS + 1, per_device_train_batch_size=micro,
            gradient_accumulation_steps=BATCH // micro, bf16=bf16, use_cpu=True, report_to=[], save_strategy="no",
            learning_rate=1e-5, disable_tqdm=True, logging_steps=100, **arguments,
            completion_only_loss=True,  # on its own it would train on the prompts of tokenised rows
        )  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        Counting(
            model, config, train_dataset=Dataset.from_list(rows), callbacks=[clock],
            processing_class=AutoTokenizer.from_pretrained(folder),
        ).train()  # fmt: skip
    expected = sum(len(ids) - prompt for ids, prompt in found)
    assert options.get("packing") or sum(answers for _, answers in steps) == expected, (steps, expected)
    return steps[1:]


def one(name: str, precision: str, folder: Path, found: list[tuple[list[int], int]]) -> None:
    options = CONTESTANTS[name] | {"precision": precision}
    steps = (run_losslab if "loss" in options else run_trl)(options, folder, found)
    seconds, answers = zip(*steps, strict=True)
    unit = 1 if platform.system() == "Darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    print(json.dumps({"seconds": sum(seconds), "answers": sum(answers), "steps": len(steps), "peak": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--rows", help="a .jsonl file with the columns problem and solution")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--one", nargs=2, metavar=("CONTESTANT", "FOLDER"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        one(chosen.one[0], chosen.precision, Path(chosen.one[1]), sequences(chosen.vocabulary, chosen.rows))
        return
    found = sequences(chosen.vocabulary, chosen.rows)
    answers = sum(len(ids) - prompt for ids, prompt in found) / (STEPS + 1)
    tokens = sum(len(ids) for ids, _ in found) / (STEPS + 1)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        make_model(Path(scratch), chosen.vocabulary)
        for name in CONTESTANTS:
            command = [sys.executable, __file__, "--vocabulary", str(chosen.vocabulary), "--one", name, scratch]
            command += ["--precision", chosen.precision, *(["--rows", chosen.rows] if chosen.rows else [])]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                reason = done.stderr.strip().splitlines()[-1][:100]
                rows.append((name, None, None, reason))
                print(f"{name}: failed: {reason}", file=sys.stderr)
                continue
            result = json.loads(done.stdout.strip().splitlines()[-1])
            rate = result["answers"] / result["seconds"]
            remark = f"{result['seconds']:.1f} s for {result['steps']} steps, {result['answers']:,} answer tokens"
            rows.append((name, rate, result["peak"], remark))
            print(f"{name}: {rate:,.0f} answer tokens/s, {result['peak']:.1f} GB", file=sys.stderr, flush=True)
    source = Path(chosen.rows).stem if chosen.rows else ""
    own_rate, own_peak = next((rate, peak) for _, rate, peak, _ in rows if rate and peak)
    about = f"vocabulary {chosen.vocabulary:,}{', ' + source if source else ''}"
    lines = [
        f"# Whole training steps ({processor()} with {instructions()}; {about})",
        "",
        f"{BATCH} sequences a step, on average {tokens:,.0f} tokens of which {answers:,.0f} are answer; "
        f"{STEPS} steps after one of warm-up; {ARITHMETIC[chosen.precision]} arithmetic, float32 weights and AdamW.",
        "",
        "| contestant | answer tokens/s | losslab DFT is faster by | peak GB | losslab DFT takes | |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name, rate, peak, remark in rows:
        if rate and peak:
            lines.append(
                f"| {name} | {rate:,.0f} | {own_rate / rate:.2f}× | {peak:.1f} | {own_peak / peak:.2f} | {remark} |"
            )
        else:
            lines.append(f"| {name} | – | – | – | – | {remark} |")
    try:
        trl = version("trl")
    except PackageNotFoundError:
        trl = "not installed"
    lines += [
        "",
        f"`python benchmarks/step.py --vocabulary {chosen.vocabulary}{f' --rows {source}.jsonl' if source else ''}"
        f"{' --precision fp32' if chosen.precision == 'fp32' else ''}`",
        "",
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end, {platform.system()}, Python "
        f"{platform.python_version()}, torch {torch.__version__}, trl {trl}.",
        "",
    ]
    text = "\n".join(lines)
    precision = "" if chosen.precision == "bf16" else chosen.precision
    vectors = instructions().lower().replace(", ", "-").replace(" ", "-")
    name = "-".join(filter(None, ["step-cpu", vectors, str(chosen.vocabulary), source, precision]))
    path = Path(__file__).parents[1] / "results" / "benchmarks" / f"{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
