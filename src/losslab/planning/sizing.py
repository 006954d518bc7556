"""Resolves `auto` in `machine`: micro-batch size, recomputation, resharding and compilation for the available devices.

The choice follows the estimate of memory in `losslab.planning.memory`. It affects speed, memory and rounding.
`of_node` estimates the memory of a node for a job.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from losslab.config.choices import Recompute
from losslab.config.machine import AUTO, MachineConfig
from losslab.config.schema import Config
from losslab.distributed.worker_count import workers_per_node
from losslab.models.compiler import can_compile
from losslab.planning import cost
from losslab.planning.architecture import count_parameters, describe
from losslab.planning.memory import CELL, GIB, Devices, at_once, on_device, room

CPU_LAYOUT = (4096, Recompute.none, True)  # micro-batch tokens, recompute, reshard
# The first keeps a 1.5B below 60 GB; on an H200 32,768 are 1% faster and take 3 GB more.
GPU_TOKENS = (26_112, 16_384, 12_288, 8192)
FEW_TOKENS = (4096, 2048, 1024)  # if memory is short
SHARE = 0.88  # of a GPU's memory: the rest is for CUDA's context, NCCL's buffers and what the estimate omits
UNKNOWN_ROOM = 80 * GIB  # assumed for a GPU that cannot be queried
COMPILE_FLOPS = 2e16  # about a minute of an H100: compiling takes 10 to 20 seconds and saves a fifth
GPU_PROCESS = 4e9  # bytes of host memory of a GPU process, with CUDA's context or an inference engine
EXPORT_BYTES = 6  # per parameter, on the node that exports: in float32 and in the published dtype
OFFLOAD_BYTES = 16  # per parameter: weight, gradient and Adam's two moments in float32
HOST_SLACK = 1.5  # times the counted bytes: page cache, data, the allocator's reserve


def resolve(config: Config, devices: Devices, available: float | None, tokens: int | None = None) -> MachineConfig:
    """`config.machine` without `auto`, for a cell that trains on `tokens` (None: many) on GPUs of `available` bytes."""
    machine, online = config.machine, cost.online(config) is not None
    if not devices.gpu or online:  # online training is laid out by TRL
        return _fill(replace(machine, compile=False if machine.compile == AUTO else machine.compile), CPU_LAYOUT)
    architecture = describe(config)
    parameters = count_parameters(architecture, config.model.trust_remote_code)
    if machine.compile == AUTO:
        long = tokens is None or 6.0 * parameters * tokens >= COMPILE_FLOPS
        machine = replace(machine, compile=long and can_compile())
    for layout in _layouts():
        candidate = _fill(machine, layout)
        needed = on_device(replace(config, machine=candidate), architecture, parameters, devices)
        if needed is None:  # the memory of its layers is unknown
            return _fill(machine, CPU_LAYOUT)
        if needed <= SHARE * (available or UNKNOWN_ROOM):
            break
    return candidate  # if none fits, the last one, which needs the least: the plan warns of it


def _layouts() -> Iterator[tuple[int, Recompute, bool]]:
    """Micro-batch tokens, recompute and reshard, from the fastest to the one that needs the least memory."""
    orders = [(recompute, reshard) for recompute in (Recompute.none, Recompute.selective) for reshard in (False, True)]
    for sizes in (GPU_TOKENS, FEW_TOKENS):
        for recompute, reshard in [*orders, (Recompute.full, True)]:
            for tokens in sizes:
                yield tokens, recompute, reshard


def _fill(machine: MachineConfig, layout: tuple[int, Recompute, bool]) -> MachineConfig:
    """The machine with a layout for the values that the configuration leaves at `auto`."""
    tokens, recompute, reshard = layout
    return replace(
        machine,
        micro_batch_tokens=tokens if machine.micro_batch_tokens == AUTO else machine.micro_batch_tokens,
        recompute=recompute if machine.recompute == Recompute.auto else machine.recompute,
        reshard=reshard if machine.reshard == AUTO else machine.reshard,
    )


def ample(machine: MachineConfig) -> MachineConfig:
    """The machine without `auto` on GPUs whose memory suffices, for a plan where there are none."""
    compiled = True if machine.compile == AUTO else machine.compile
    return _fill(replace(machine, compile=compiled), (GPU_TOKENS[0], Recompute.none, False))


def sized(config: Config, tokens: int | None = None) -> Config:
    """The configuration without `auto` in `machine`, for this machine; all processes get what the first one decides."""

    def decide() -> dict[str, Any]:
        devices = Devices.of(config.machine)
        return settings(resolve(config, devices, room(devices.gpu) if devices.gpu else None, tokens))

    from losslab.distributed.process_group import decide_on_main  # torch, which a plan does without

    decided = decide_on_main(config.machine, decide)
    decided["recompute"] = Recompute(decided["recompute"])
    return replace(config, machine=replace(config.machine, **decided))


def settings(machine: MachineConfig) -> dict[str, Any]:
    """What `resolve` decides, in the format of JSON."""
    return {
        "micro_batch_tokens": machine.micro_batch_tokens,
        "recompute": str(machine.recompute),
        "compile": machine.compile,
        "reshard": machine.reshard,
    }


def cells_at_once(configs: Sequence[Config]) -> int:
    """How many of these cells this machine has cores and free memory for at a time; 1 where they use GPUs.

    Also 1 where a cell may take all cores, or where its memory is not known.
    """
    machines = [config.machine for config in configs]
    threads = [machine.threads * workers_per_node(machine) for machine in machines if machine.threads is not None]
    if any(Devices.of(machine).gpu for machine in machines) or len(threads) < len(machines):
        return 1
    try:
        return at_once(max(threads), max(CELL, *(of_node(config) for config in configs)))
    except ValueError:
        return 1


def of_node(config: Config, job: Mapping[str, Any] | None = None) -> float:
    """Bytes of a node's own memory that a job needs: its processes, a copy of the state to write, and an export.

    A model behind an endpoint needs the processes that ask it and grade its answers, and nothing else.

    `job` has the settings of conf/hydra/launcher/slurm.yaml; None is this machine.
    """
    if config.served:
        return float(CELL)
    devices = Devices.of(config.machine, job)
    config = replace(config, machine=resolve(config, devices, None))
    architecture = describe(config)
    parameters = count_parameters(architecture, config.model.trust_remote_code)
    written = float(EXPORT_BYTES * parameters)
    if devices.gpu and config.trains and not config.adapter.rank:
        written += cost.CHECKPOINT_BYTES * parameters / devices.nodes  # the copy is kept from the first checkpoint on
    process = GPU_PROCESS
    if not devices.gpu:
        training = on_device(config, architecture, parameters, devices) if config.trains else 2.0 * parameters
        if training is None:
            raise ValueError(f"the memory that {architecture.model_type} needs is not known: set hydra.launcher.mem_gb")
        process += training
    if config.machine.cpu_offload:
        process += OFFLOAD_BYTES * parameters / devices.count
    return HOST_SLACK * (devices.each * process + written)
