"""The keys of where and how a cell runs, which are no part of its identity: `machine` and `tracker`."""

import re
from dataclasses import dataclass

from losslab.config.choices import (
    Device,
    Engine,
    Recompute,
    Sharding,
    TrackerMode,
    TrackerName,
)
from losslab.keys import key

AUTO = "auto"  # a value of the machine that `losslab.planning.sizing` decides before the workers start
ENDPOINT_URL = re.compile(r"https?://[^@?#\s]+")  # the address of an endpoint stands in records: no user, key or query


@dataclass
class TrackerConfig:
    """The experiment tracker; all keys except `name` apply to W&B only."""

    name: TrackerName = key(TrackerName.wandb, "which tracker")
    mode: TrackerMode = key(TrackerMode.auto, "auto = online with a login, offline without")
    project: str = key("losslab", "of W&B")
    entity: str | None = key(None, "user or team; null = the login's own")
    checkpoints: bool = key(False, "keep the trained model of each cell as an artifact too")


@dataclass
class MachineConfig:
    """Where and how a cell runs. Its identity has `grading_seconds` of loss=grpo and ppo, and nothing else."""

    results: str = key("results", "the folder of all records; on a cluster one that all nodes share")
    device: Device = key(Device.auto, "auto = GPUs where there are any")
    workers: int | None = key(None, "processes on this machine; null = one per GPU, 1 on CPU", low=1)
    threads: int | None = key(None, "CPU threads per worker; null = cores / workers", low=1)
    micro_batch_tokens: int | str = key(
        AUTO, "tokens that one worker takes at once; auto = what fits a GPU, 4096 on a CPU", low=1
    )
    recompute: Recompute = key(
        Recompute.auto,
        "activation checkpointing: what backward computes again to save memory; auto = where it is short on a GPU",
    )
    compile: bool | str = key(
        AUTO, "torch.compile of every decoder layer; auto = on a GPU, where training takes a minute or more"
    )
    reshard: bool | str = key(
        AUTO,
        "shard weights and reduce gradients between the micro-batches of a step too; auto = where a GPU is short of "
        "memory, and on a CPU",
    )
    deterministic: bool = key(False, "the same run gives the same bits on a GPU too, and takes longer")
    sharding: Sharding = key(Sharding.full, "hybrid = weights are sharded within a node and copied between nodes")
    cpu_offload: bool = key(False, "weights, gradients and optimizer state live in host memory")
    checkpoint_steps: int = key(50, "steps between two checkpoints", low=1)
    keep_last: int = key(2, "how many checkpoints are kept during a run; 2, since one may be damaged", low=1)
    keep_every: int | None = key(None, "checkpoints at multiples of this many steps are kept for good", low=1)
    export_steps: int | None = key(None, "every so many steps the model is exported to <cell>/steps too", low=1)
    validation_steps: int | None = key(
        None, "steps between two measurements of the held-out rows; null = ten over a run", low=1
    )
    probabilities: int | None = key(
        None, "training examples on which the base and the trained model are compared", low=1
    )
    kl_to_base: int | None = key(
        None, "sampled answers to benchmarks on which the KL of the trained model to its base is measured", low=1
    )
    engine: Engine = key(Engine.auto, "auto = vLLM where it is installed")
    tensor_parallel: int = key(1, "GPUs that share one vLLM engine, for a model that one cannot hold", low=1)
    grading_seconds: float = key(
        3.0, "limit for the verdict on one answer; the rewards of loss=grpo and ppo depend on it", low=0.1, high=3600
    )
    unsafe_code: bool = key(
        False,
        "run the programs that a model writes without isolation, with your permissions for files and the network",
    )
    api_url: str | None = key(
        None,
        "of the OpenAI-compatible endpoint, such as http://localhost:8000/v1",
        heading="Of engine=api; the key of the endpoint is taken from the environment alone, OPENAI_API_KEY:",
    )
    api_model: str | None = key(None, "the model's name there; null = model.path")
    api_concurrency: int = key(32, "requests at once", low=1, high=4096)
    api_retries: int = key(8, "of a request that fails temporarily, with longer and longer waits", low=0, high=100)
    api_prices: list[float] = key(list, "dollars for a million tokens of prompts and of answers: [0.25, 2.0]")
