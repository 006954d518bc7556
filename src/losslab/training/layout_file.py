"""What only the first steps of a run show of its layout: the attention that ran, and the peak of a GPU's memory."""

from pathlib import Path

from losslab.config.log import log
from losslab.files.json_files import read_json, write_json
from losslab.models.attention import kernels_of
from losslab.models.policy import Policy

MEASURED_STEPS = 2  # from the second on the optimizer's moments are there
DIFFERENCE = 0.1  # of the peak from the plan's estimate, beyond which it is announced
GIB = 2**30


def complete(file: Path, policy: Policy, peak: int | None) -> None:
    """Add it to the file that was written before the training; `peak` is in bytes, None where it was not measured."""
    facts = read_json(file) | {"attention": kernels_of(policy.model)}
    if peak is not None:
        facts["measured_memory"] = peak
        planned = facts.get("planned_memory")
        if planned and abs(peak / planned - 1) > DIFFERENCE:
            log.info(
                f"the first steps took {peak / GIB:.1f} GiB of the GPU's memory, where {planned / GIB:.1f} GiB were "
                "planned"
            )
    write_json(file, facts)
