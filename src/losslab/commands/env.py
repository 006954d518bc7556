"""Print the versions and hardware of this installation for a bug report: no user names, no paths, no secrets."""

import os

import torch

from losslab import __version__
from losslab.commands.cli import parse
from losslab.config.machine import TrackerConfig
from losslab.config.schema import Engine
from losslab.evaluation import engines
from losslab.records.environment import environment, processor
from losslab.tracking.follow import resolve

GIB = 2**30


def main(arguments: list[str]) -> None:
    parse(arguments, [])
    for name, value in lines().items():
        print(f"{name + ':':14} {value}")


def lines() -> dict[str, str]:
    """What to report, in order."""
    facts = environment()
    changed = " with uncommitted changes" if facts["dirty"] else ""
    gpus = [f"{name}, {memory(i):.0f} GiB" for i, name in enumerate(facts["gpus"])]
    ram = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    return {
        "losslab": f"{__version__}, commit {facts['commit'] or 'unknown'}{changed}",
        "system": facts["platform"],
        "python": facts["python"],
        "cpu": f"{processor()}, {facts['cpus']} cores, {ram:.0f} GiB",
        "gpu": "; ".join(gpus) or "none",
        "cuda": f"{torch.version.cuda} (torch's)" if torch.version.cuda else "none",
        **facts["versions"],
        "engine": str(engines.choose(Engine.auto)),
        "W&B": f"{resolve(TrackerConfig())} by default",
        "hub": "offline (HF_HUB_OFFLINE)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", "") else "online",
    }


def memory(device: int) -> float:
    return torch.cuda.get_device_properties(device).total_memory / GIB
