"""Refuses keys of a training that its other settings leave without effect."""

from dataclasses import fields

from losslab.config.choices import Shape
from losslab.config.schema import AdapterConfig, Config, SchedulerConfig


def check_unread(config: Config) -> None:
    """Refuse settings of an adapter without a rank, and of a schedule that has another shape."""
    adapter, scheduler = config.adapter, config.scheduler
    for field in [] if adapter.rank else fields(adapter):
        if getattr(adapter, field.name) != getattr(AdapterConfig(), field.name):
            raise ValueError(
                f"adapter.{field.name} is for adapters, and adapter.rank=0 trains all weights: set adapter.rank, or "
                f"leave adapter.{field.name} out"
            )
    if scheduler.floor and scheduler.shape == Shape.constant:
        raise ValueError(
            "scheduler.floor is where the learning rate ends, and scheduler.shape=constant keeps it: leave one out"
        )
    if scheduler.shape != Shape.wsd and scheduler.decay_ratio != SchedulerConfig().decay_ratio:
        raise ValueError("scheduler.decay_ratio is for scheduler.shape=wsd: set that too, or leave it out")
