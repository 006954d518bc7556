"""What the tuning of a sweep costs, said in its plan; and its rows when each objective has chosen."""

from collections.abc import Sequence
from dataclasses import asdict

from losslab.config.schema import Config
from losslab.results.labels import canonical
from losslab.results.load_records import science


def sentence(groups: Sequence[Sequence[Config]]) -> str:
    """How many of the cells serve the choice; empty without `sweep.tune`. `groups` are the cells by row."""
    if (key := groups[0][0].sweep.tune) is None:
        return ""
    trained = [group for group in groups if group[0].trains]
    rows = tuned(trained, key)
    if len(rows) == len(trained):
        return f"tuning: no objective has several values of {key} here: give some, as in {key}=log_uniform(LOW,HIGH,6)"
    cells, without = (sum(map(len, part)) for part in (trained, rows))
    return (
        f"tuning: {cells} trained cells in place of {without}, for each objective's own best {key}; half of the "
        "problems of each benchmark choose it, and the other half makes the scores"
    )


def tuned(groups: Sequence[Sequence[Config]], key: str) -> list[Sequence[Config]]:
    """One row of cells for each configuration that differs in more than this key."""
    rows: dict[str, Sequence[Config]] = {}
    for group in groups:
        config = science(asdict(group[0]))
        config.pop(key, None)
        rows.setdefault(canonical(config | {"model": group[0].names.model}), group)
    return list(rows.values())
