"""Whole training steps on one GPU, of losslab and of TRL, in the shape of Qwen2.5-Math-1.5B; sections of gpu.py."""

import atexit
import gc
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from gpu_report import say
from transformers import AutoModelForCausalLM, Qwen2Config

from losslab.config.machine import MachineConfig
from losslab.config.schema import AdapterConfig, Config, ModelConfig, OptimizerConfig, TrainConfig
from losslab.data import toy_task
from losslab.data.batch_sampler import RandomBatchSampler
from losslab.data.examples import Examples
from losslab.models import flash_attention_4
from losslab.planning import memory, sizing
from losslab.planning.architecture import count_parameters
from losslab.training import loop
from losslab.training.steps import Steps

STEPS, WARM, LENGTH = 12, 3, 2048  # of losslab; TRL takes half of them, after the second
QWEN_1_5B = {
    "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
    "num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": True,
}  # fmt: skip
QWEN_7B = {
    "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152_064, "tie_word_embeddings": False,
}  # fmt: skip
TINY = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 4096, "tie_word_embeddings": True,
}  # fmt: skip
WITHOUT = "without flash-attn-4"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# All runs of a process share a group. A process that leaves it to NCCL may never end.
atexit.register(lambda: dist.destroy_process_group() if dist.is_initialized() else None)


def architecture(sizes: dict[str, Any]) -> Qwen2Config:
    return Qwen2Config(**sizes, max_position_embeddings=4096, pad_token_id=0, eos_token_id=1, bos_token_id=None,
                       dtype="bfloat16")  # fmt: skip


def batch(tiny: bool) -> int:
    """Sequences of a step."""
    return 8 if tiny else 64


@cache
def sequences(tiny: bool) -> list[tuple[list[int], int]]:
    """(token ids, length of the prompt) of all steps: lengths of worked solutions, log-normal with a median of 330."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(3.0 if tiny else 5.8, 0.6, STEPS * batch(tiny)), 32, LENGTH).astype(int)
    return [(rng.integers(10, 4000, length).tolist(), max(1, length // 4)) for length in lengths]


def random_weights(model: torch.nn.Module, *_: Any) -> None:
    """In place of reading a checkpoint."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    for parameter in model.parameters():
        local = getattr(parameter, "_local_tensor", parameter).data
        local.normal_(std=0.02, generator=generator) if local.ndim > 1 else local.fill_(1.0)


def losslab(name: str, sizes: dict[str, Any], tiny: bool, loss: str = "dft.DFT", adapter: bool = False,
            **machine: Any) -> list[dict[str, Any]]:  # fmt: skip
    """Say what a run of STEPS steps measured after its first three; `machine` are options beside the defaults."""
    from losslab.models import policy

    policy.fill = random_weights  # type: ignore[assignment]
    loop.export = lambda *_: None  # type: ignore[assignment]
    rows = sequences(tiny)
    lengths = np.array([len(ids) for ids, _ in rows])
    tokens = np.concatenate([np.array(ids, dtype=np.int32) for ids, _ in rows])
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "29555"}
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        architecture(sizes).save_pretrained(model)
        toy_task.tokenizer().save_pretrained(model)
        if DEVICE == "cpu":
            AutoModelForCausalLM.from_config(architecture(sizes)).save_pretrained(model)
        examples = Examples(tokens, np.r_[0, lengths.cumsum()], np.array([p for _, p in rows]), "", {})
        examples.save(Path(scratch) / "data")
        config = Config(
            model=ModelConfig(path=str(model)), loss={"_target_": f"losslab.objectives.{loss}"},
            optimizer=OptimizerConfig("torch.optim.AdamW", 1e-5, arguments={"fused": True}),
            train=TrainConfig(batch_size=batch(tiny), max_steps=STEPS), machine=MachineConfig(**machine),
            adapter=AdapterConfig(8, 16, ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"])
            if adapter else AdapterConfig(),
        )  # fmt: skip
        config = sizing.sized(config)
        of_steps = RandomBatchSampler.of(config.train, config.seed, examples).tokens(lengths, STEPS)
        parameters = count_parameters(architecture(sizes))
        planned = memory.on_device(config, architecture(sizes), parameters, steps=of_steps)
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        loop.train(config, f"{scratch}/data", scratch, f"{scratch}/reference.npy")
        whole = time.perf_counter() - began
        metrics = [json.loads(line) for line in (Path(scratch) / "metrics.jsonl").read_text().splitlines()]
    measured = metrics[WARM:]
    seconds = sum(row["seconds"] for row in measured)
    mfu = [row["mfu"] for row in measured if "mfu" in row]
    reserved = torch.cuda.max_memory_reserved() if DEVICE == "cuda" else 0
    say(
        section="steps", name=name, answer_tokens_per_second=sum(row["answer_tokens"] for row in measured) / seconds,
        seconds=[row["seconds"] for row in metrics], mfu=sum(mfu) / len(mfu) if mfu else None,
        peak_gb=metrics[-1]["peak_memory"] / 1e9, reserved_gb=reserved / 1e9, planned_gb=(planned or 0.0) / 1e9,
        loss=metrics[-1]["loss"], whole=whole, **sizing.settings(config.machine),
    )  # fmt: skip
    free()
    return metrics


def free() -> None:
    gc.collect()
    torch._dynamo.reset()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def attempt(name: str, run: Callable[[], Any]) -> None:
    """One contestant's failure does not stop the others."""
    try:
        run()
    except Exception as error:
        import traceback

        traceback.print_exc()
        say(section="steps", name=name, error=repr(error)[:300])
        del error
        free()


def steps(tiny: bool) -> None:
    """Three objectives at losslab's defaults, in two turns, so that a card that slows down affects them alike."""
    for _ in range(2):
        for name, loss in {"DFT": "dft.DFT", "SFT": "sft.SFT", "iw-SFT, stored references": "iw_sft.IWSFT"}.items():
            attempt(name, partial(losslab, f"losslab {name}", shape(tiny), tiny, loss, **compiled(tiny)))


def options(tiny: bool) -> None:
    """DFT with one option changed at a time. Deterministic comes last, since it is a setting of the whole process."""
    changes: dict[str, dict[str, Any]] = {
        "not compiled": {"compile": False},
        "16,384 tokens": {"micro_batch_tokens": 16_384},
        "24,576 tokens": {"micro_batch_tokens": 24_576},
        "32,768 tokens": {"micro_batch_tokens": 32_768},
        "reshard": {"reshard": True},
        "selective recompute": {"recompute": "selective"},
        WITHOUT: {},
        "deterministic": {"deterministic": True},
    }
    for name, change in changes.items():
        without = patch.dict(flash_attention_4._loaded, {flash_attention_4.PACKAGE: None})
        with without if name == WITHOUT else nullcontext():
            attempt(name, partial(losslab, f"losslab DFT, {name}", shape(tiny), tiny, **(compiled(tiny) | change)))


def shape(tiny: bool) -> dict[str, Any]:
    return TINY if tiny else QWEN_1_5B


def compiled(tiny: bool) -> dict[str, Any]:
    """What `auto` decides for a run of minutes."""
    return {} if tiny else {"compile": True}


def profile(tiny: bool) -> None:
    """Where the device's time goes in the last two steps of losslab's defaults: its kernels, by their time."""
    from torch.profiler import ProfilerActivity, schedule
    from torch.profiler import profile as profiler

    activities = [ProfilerActivity.CUDA] if DEVICE == "cuda" else [ProfilerActivity.CPU]
    # A row is recorded while the step after it is computed.
    steps = schedule(wait=STEPS - 4, warmup=1, active=2)
    with profiler(activities=activities, schedule=steps) as recorder:
        record = Steps.record

        def counted(*arguments: Any) -> None:
            record(*arguments)
            recorder.step()

        Steps.record = counted  # type: ignore[assignment, method-assign]
        name = "losslab DFT, under the profiler"
        attempt("profile", partial(losslab, name, shape(tiny), tiny, **compiled(tiny)))
        Steps.record = record  # type: ignore[method-assign]
    key = "self_device_time_total" if DEVICE == "cuda" else "self_cpu_time_total"
    spent = {kernel.key: (getattr(kernel, key) / 2e3, kernel.count / 2) for kernel in recorder.key_averages()}
    total = sum(milliseconds for milliseconds, _ in spent.values())
    for name, (milliseconds, count) in sorted(spent.items(), key=lambda each: -each[1][0])[:60]:
        say(section="profile", kernel=name[:150], ms=milliseconds, count=count, share=milliseconds / total)


def large(tiny: bool) -> None:
    """The shape of Qwen2.5-7B with adapters."""
    large = TINY if tiny else QWEN_7B
    attempt("7B", partial(losslab, "losslab DFT, 7B with LoRA", large, tiny, adapter=True, **compiled(tiny)))


def trl(tiny: bool) -> None:
    """TRL's SFTTrainer with its DFT loss, at its defaults and at its best settings."""
    best = {"packing": True, "gradient_checkpointing": False}
    liger = {"use_liger_kernel": True}
    liger["liger_kernel_config"] = {"fused_linear_cross_entropy": False, "cross_entropy": False}  # type: ignore[assignment]
    runs: dict[str, dict[str, Any]] = {
        "TRL dft, defaults": {},
        "TRL dft, no checkpointing": {"gradient_checkpointing": False},
        "TRL dft, packing, no checkpointing": {"micro": 4} | best,
        "TRL dft, packing, Liger layers": {"micro": 4} | best | liger,
    }
    if tiny:
        del runs["TRL dft, packing, Liger layers"]  # Triton kernels
    for name, options in runs.items():
        attempt(name, partial(_trl, name, tiny, **options))


def _trl(name: str, tiny: bool, micro: int = 8, **options: Any) -> None:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    steps: list[tuple[float, int]] = []

    def now() -> float:
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began, self.answers = now(), 0

        def on_step_end(self, *_: Any, **__: Any) -> None:
            steps.append((now() - self.began, int(self.answers)))

    clock = Clock()

    class Counting(SFTTrainer):
        def compute_loss(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            clock.answers = clock.answers + (inputs["labels"] != -100).sum()
            return super().compute_loss(model, inputs, *rest, **more)

    rows = [{"input_ids": ids, "completion_mask": [0] * p + [1] * (len(ids) - p)} for ids, p in sequences(tiny)]
    with tempfile.TemporaryDirectory() as scratch:
        config = SFTConfig(
            output_dir=scratch, max_steps=STEPS // 2, per_device_train_batch_size=micro, loss_type="dft",
            gradient_accumulation_steps=max(1, (8 if options.get("packing") else batch(tiny)) // micro), bf16=True,
            use_cpu=DEVICE == "cpu", report_to=[], save_strategy="no", learning_rate=1e-5, disable_tqdm=True,
            logging_steps=100, optim="adamw_torch_fused", completion_only_loss=True, max_length=LENGTH, **options,
        )  # fmt: skip
        with torch.device(DEVICE):
            model = AutoModelForCausalLM.from_config(architecture(shape(tiny)), dtype=torch.float32)
        Counting(model, config, train_dataset=Dataset.from_list(rows), callbacks=[clock],
                 processing_class=toy_task.tokenizer()).train()  # fmt: skip
    seconds, answers = zip(*steps[2:], strict=True)
    peak = torch.cuda.max_memory_allocated() / 1e9 if DEVICE == "cuda" else 0.0
    say(section="steps", name=name, answer_tokens_per_second=sum(answers) / sum(seconds), seconds=list(seconds),
        peak_gb=peak)  # fmt: skip
    free()
