"""What a sweep will do and need, before anything is loaded: `plan=true`.

Sizes come from the architecture in the model's YAML or the hub's small config.json, never from weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from losslab import adapters, cost
from losslab.batches import Schedule
from losslab.checks import objective_class
from losslab.data import local_files, unanswered
from losslab.head import ELEMENTS
from losslab.launch import count
from losslab.online import PPO, questions
from losslab.pretrained import load_config
from losslab.records import Cell
from losslab.schema import BASE, Config, Device, MachineConfig, Precision, Recompute, Sharding

GIB = 2**30
PROCESS = 3.3e8  # bytes of Python with torch and transformers
GPU_PROCESS = 4e9  # bytes of it in host memory, with CUDA's context or an inference engine
EXPORT_BYTES = 6  # of a parameter, on the node that exports: in float32 and in the published dtype
OFFLOAD_BYTES = 16  # of a parameter: weight, gradient and Adam's two moments in float32
HOST_SLACK = 1.5  # on what is counted: page cache, data, the allocator's reserve


@dataclass(frozen=True)
class Devices:
    """What one cell trains on: a worker for each device."""

    nodes: int
    each: int  # on one node
    gpu: bool

    @classmethod
    def of(cls, machine: MachineConfig, job: Mapping[str, Any] | None = None) -> "Devices":
        """Those of this machine, or of a job with the settings of conf/hydra/launcher/slurm.yaml.

        Raises ValueError when the job has fewer GPUs than workers.
        """
        if job is None:
            gpu = machine.device == Device.cuda or (machine.device == Device.auto and torch.cuda.is_available())
            return cls(1, count(machine), gpu)
        gpus = 0 if machine.device == Device.cpu else job["gpus_per_node"] or 0
        if gpus and (machine.workers or 1) > gpus:
            raise ValueError(
                f"machine.workers={machine.workers}, but hydra.launcher.gpus_per_node={gpus}: make them equal"
            )
        return cls(job["nodes"], machine.workers or gpus or 1, gpus > 0)

    @property
    def count(self) -> int:
        return self.nodes * self.each


@dataclass(frozen=True)
class Plan:
    cell: Cell
    state: str  # done | to score | interrupted | failed | to run
    steps: int | None  # None where the number of rows is known only after the download
    tokens: int | None  # an upper bound: rows of the full length
    parameters: int
    memory: float  # bytes on each device at the peak of training
    hours: float | None  # of training and scoring on its devices, were they H100s


def make(config: Config, job: Mapping[str, Any] | None = None) -> Plan:
    """The plan of one cell, on this machine or in a job. ValueError when its data or architecture cannot be found."""
    devices = Devices.of(config.machine, job)
    cell, architecture = Cell.of(config), describe(config)
    parameters = count_parameters(architecture)
    steps = steps_of(config)
    tokens = steps and steps * cost.step_tokens(config)
    peak = 2.0 * parameters if config.names.loss == BASE else memory(config, architecture, parameters, devices)
    own = cost.of([config], [(parameters, tokens or 0)])
    # Scoring takes one node.
    hours = None if tokens is None else (own.training + own.rollouts) / devices.count + own.scoring / devices.each
    return Plan(cell, state(cell, config), steps, tokens, parameters, peak, hours)


def steps_of(config: Config) -> int | None:
    """Steps of training at most; None where the number of rows is not known yet."""
    if config.names.loss == BASE:
        return 0
    if (rows := rows_of(config)) is None:
        return None
    schedule = questions.schedule if cost.online(config) else Schedule.of
    return schedule(config.train, config.seed, rows).steps


def state(cell: Cell, config: Config) -> str:
    if config.force:
        return "to run again"
    if cell.done(config):
        return "done"
    if config.names.loss != BASE and cell.trained(config):
        return "to score"
    return {"failed": "failed, to resume", "interrupted": "interrupted, to resume"}.get(
        cell.state().get("state", ""), "to run"
    )


def describe(config: Config) -> PretrainedConfig:
    facts = dict(config.model.architecture)
    if facts:
        return AutoConfig.for_model(**facts)
    path, revision = adapters.base(config.model.path) or (config.model.path, config.model.revision)
    return load_config(replace(config.model, path=path, revision=revision))


def count_parameters(architecture: PretrainedConfig) -> int:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(architecture)
    return sum(p.numel() for p in model.parameters())


def rows_of(config: Config) -> int | None:
    """Rows that training will see at most; None for a hub data set of unknown size."""
    dataset = config.dataset
    if unanswered(dataset):
        return None
    if not (files := local_files(dataset)):
        return dataset.rows
    rows = 0
    for file in files:
        if file.endswith(".parquet"):
            import pyarrow.parquet as parquet

            rows += parquet.ParquetFile(file).metadata.num_rows
        else:
            with Path(file).open("rb") as stream:
                rows += sum(1 for line in stream if line.strip())
    return rows if dataset.rows is None else min(rows, dataset.rows)


def memory(config: Config, architecture: Any, parameters: int, devices: Devices | None = None) -> float:
    """Estimated peak bytes on each device: weights, gradients and Adam's two moments, sharded over the workers;
    the gathered weights of the outermost group and of two layers; activations of one micro-batch; the head's chunk.
    Online training shards nothing, and what generates the answers takes memory that is not counted.

    On a CPU also what the interpreter and its libraries take. There it is what is in use, to 2% in runs of two shapes;
    glibc keeps what is freed, and the process held up to 1.75 times as much, unless MALLOC_MMAP_THRESHOLD_=1000000 made
    glibc give it back, which costs some speed.
    """
    machine, train = config.machine, config.train
    devices = devices or Devices.of(machine)
    width, layers, inner = architecture.hidden_size, architecture.num_hidden_layers, architecture.intermediate_size
    heads = architecture.num_attention_heads
    kv = width // heads * (getattr(architecture, "num_key_value_heads", None) or heads)
    computed, held = (2 if precision == Precision.bf16 else 4 for precision in (train.precision, train.weights))
    # Trained: weight, gradient and Adam's two moments. With adapters the weights are frozen, and little is trained.
    state = 0 if machine.cpu_offload else parameters * (computed if config.adapter.rank else 4 * held)
    tied = getattr(architecture, "tie_word_embeddings", False)
    outer = architecture.vocab_size * width * (1 if tied else 2)
    layer = (parameters - outer) / layers
    gathered = computed * (outer + 2 * layer if devices.count > 1 or devices.gpu else parameters)
    products, rest = computed * (5 * width + 2 * kv + 2 * inner), computed * (3 * width + 2 * inner) + 4 * 4 * width
    per_token = {
        Recompute.none: layers * (products + rest),
        Recompute.selective: layers * products + rest,
        Recompute.full: layers * computed * width + products + rest,
    }[machine.recompute]
    tokens = max(machine.micro_batch_tokens, train.max_length)
    if train.micro_batch is not None:
        tokens = train.micro_batch * train.max_length
    chunk, block = ELEMENTS["cuda" if devices.gpu else "cpu"]
    logits = computed * min(chunk, tokens * architecture.vocab_size) + 2 * 4 * block
    head = logits + (0 if config.adapter.rank else 4 * outer / (1 if tied else 2))
    process = 0 if devices.gpu else PROCESS
    if "reference_distribution" in objective_class(config).needs and not config.adapter.rank:
        state += computed * parameters  # a frozen copy
    shards = devices.each if machine.sharding == Sharding.hybrid else devices.count
    if online := cost.online(config):  # every worker holds all: the policy, a value model, a reference
        shards = 1
        state += (computed * parameters if online.kl else 0) + 4 * held * parameters * isinstance(online, PPO)
        head = 3 * 4 * tokens * architecture.vocab_size  # logits, their logarithms and their gradient
    return state / shards + gathered + per_token * tokens + head + process


def host_memory(config: Config, job: Mapping[str, Any]) -> float:
    """Bytes of a node's own memory that a job needs: its processes, and a copy of the state while it is written."""
    architecture, devices = describe(config), Devices.of(config.machine, job)
    parameters = count_parameters(architecture)
    written = float(EXPORT_BYTES * parameters)
    if config.names.loss != BASE and not config.adapter.rank:
        written = max(written, cost.CHECKPOINT_BYTES * parameters / devices.nodes)
    own = GPU_PROCESS
    if not devices.gpu:
        trained = config.names.loss != BASE
        own += memory(config, architecture, parameters, devices) if trained else 2.0 * parameters
    if config.machine.cpu_offload:
        own += OFFLOAD_BYTES * parameters / devices.count
    return HOST_SLACK * (devices.each * own + written)


def show(configs: list[Config], job: Mapping[str, Any] | None = None) -> None:
    """Print the plan of a sweep, on this machine or in the jobs of a SLURM launcher with these settings."""
    plans = [make(config, job) for config in configs]
    config, devices = configs[0], Devices.of(configs[0].machine, job)
    table = Table(title=f"{config.sweep.name}: {len(plans)} cells", title_justify="left")
    for column in ("cell", "state"):
        table.add_column(column, overflow="fold")
    for column in ("steps", "tokens ≤", "parameters", "memory/device ≈", "hours ≤"):
        table.add_column(column, justify="right")
    for plan in plans:
        table.add_row(
            plan.cell.folder.name, plan.state, number(plan.steps), number(plan.tokens), number(plan.parameters),
            f"{plan.memory / GIB:.1f} GiB",
            "–" if not devices.gpu else "?" if plan.hours is None else f"{plan.hours:.1f}",
        )  # fmt: skip
    console = Console()
    console.print(table)
    if torch.cuda.is_available() and job is None:
        room = torch.cuda.get_device_properties(0).total_memory
        if max(plan.memory for plan in plans) > room:
            console.print(
                f"warning: a device has {room / GIB:.0f} GiB; lower machine.micro_batch_tokens or use more workers"
            )
    unknown = sum(plan.tokens is None for plan in plans)
    samples = {name: benchmark.rows for name, benchmark in config.benchmark.items()}
    where = "on this machine" if job is None else f"in a job, on {devices.nodes} node{'s' * (devices.nodes > 1)}"
    console.print(
        f"workers of a cell: {devices.count} {where}; batch {config.train.batch_size} sequences, "
        f"micro-batches of up to {config.machine.micro_batch_tokens} tokens on each\n"
        f"scoring: {config.names.eval}, {config.eval.samples} samples of each problem of "
        + ", ".join(f"{name} ({rows})" if rows else name for name, rows in samples.items())
        + "\n"
        + cost.sentence(cost.of(configs, [(plan.parameters, plan.tokens or 0) for plan in plans]))
        + (f"; not counted: the training of {unknown} cells whose rows are not known yet" if unknown else "")
        + ("; hours: those of a cell on its workers, were they H100s" if devices.gpu else "")
        + f"\nrecords: {Path(config.machine.results) / 'cells'}\n"
        f"tables:  {Path(config.machine.results) / 'tables' / config.sweep.name}",
        highlight=False,
    )


def number(value: int | None) -> str:
    """1543714304 as 1.54B; `?` for what is not known."""
    if value is None:
        return "?"
    if value < 10_000:
        return str(value)
    power, short = 0, float(value)
    while short >= 999.5:
        power, short = power + 1, short / 1000
    return f"{short:.3g}{' kMBT'[power]}"
