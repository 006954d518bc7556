"""Which benchmarks measure what training forgets, and on which the KL to the base is measured."""

from collections.abc import Mapping
from functools import cache

from omegaconf import OmegaConf

from losslab.config.benchmark import BenchmarkConfig
from losslab.config.paths import CONF


@cache
def forgetting() -> frozenset[str]:
    """The names of the benchmarks in conf/benchmark/forgetting.yaml."""
    return frozenset(map(str, OmegaConf.load(CONF / "benchmark" / "forgetting.yaml")))


def of_new_task(benchmarks: Mapping[str, BenchmarkConfig]) -> list[str]:
    """The benchmarks whose sampled answers show the KL to the base on what is learned.

    Those of forgetting are left out, and so are tasks of lm_eval, which sample in their own way, and images.
    """
    kept = [name for name, about in benchmarks.items() if about.task is None and not about.images]
    return [name for name in kept if name not in forgetting()]
