"""The cells of a sweep, each once, with the configurations under which it is scored."""

from typing import Any

from losslab.config.schema import Config
from losslab.records.record import Cell, protocol_name

OF_SWEEP = ("plan", "check", "force")  # keys that the first cell decides for all


def by_protocol(configs: list[Config]) -> dict[Cell, list[Config]]:
    """Each cell once, in the order given, with one configuration for each protocol under which it is scored.

    Raises ValueError for configurations that ask for different work on one cell under one protocol, for two methods
    that are one cell, and for cells that differ in what the first one decides for all.
    """
    for key in OF_SWEEP:
        if len({getattr(config, key) for config in configs}) > 1:
            raise _no_cell(key)
    of_cells: dict[Cell, dict[str, Config]] = {}
    for group in alike(configs):
        protocol = protocol_name(group[0])
        cells = Cell.of_seeds(group[0], [config.seed for config in group])
        for cell, config in zip(cells, group, strict=True):
            first = of_cells.setdefault(cell, {}).setdefault(protocol, config)
            if first is not config:
                _check_alike(first, config)
    return {cell: list(protocols.values()) for cell, protocols in of_cells.items()}


def _check_alike(first: Config, second: Config) -> None:
    """Refuse configurations of one cell that differ in what neither its name nor its protocol covers."""
    asked: list[dict[str, Any]] = []
    for config in (first, second):
        groups = {"eval": config.eval, "machine": config.machine, "tracker": config.tracker, "sweep": config.sweep}
        keys = {f"{group}.{key}": value for group, part in groups.items() for key, value in vars(part).items()}
        keys |= {"dataset.validation": config.dataset.validation} if config.trains else {}
        keys |= {key: getattr(config, key) for key in ("benchmark", "stage")}
        asked.append(keys | {"model.trust_remote_code": config.model.trust_remote_code})
    methods = first.names.method, second.names.method
    if all(methods) and methods[0] != methods[1]:
        raise ValueError(
            f"method={methods[0]} and method={methods[1]} are the same cell here, which has one row in a table: leave "
            "one of them out, or what makes them alike"
        )
    if (key := next((key for key in asked[0] if asked[0][key] != asked[1][key]), None)) is None:
        return
    if set(first.benchmark) != set(second.benchmark):
        every = ",".join(first.benchmark | second.benchmark)
        raise _no_cell("benchmark", f"write benchmark=[{every}], or ")
    raise _no_cell(key)


def _no_cell(key: str, instead: str = "") -> ValueError:
    return ValueError(
        f"{key} makes no cell of its own, so that the sweep would use one of its values: {instead}give each value a "
        "command of its own, one after the other"
    )


def alike(configs: list[Config]) -> list[list[Config]]:
    """Neighbours that differ only in the seed, and so have the same plan."""
    groups: list[list[Config]] = []
    for config in configs:
        if groups and vars(config) | {"seed": 0} == vars(groups[-1][0]) | {"seed": 0}:
            groups[-1].append(config)
        else:
            groups.append([config])
    return groups
