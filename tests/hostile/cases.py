"""All cases, each kind with its share."""

import json
import random
import time
from pathlib import Path

from hostile import checkpoints, configuration, files, models, records, runner, signals
from hostile.case import Case
from hostile.entry import command

SHARES = {
    "configuration": 0.42, "record": 0.28, "data file": 0.08, "benchmark file": 0.06, "model folder": 0.09,
    "checkpoint": 0.06, "signal": 0.02,
}  # fmt: skip


def of(count: int, folder: Path, kind: str | None = None) -> list[Case]:
    """Cases of all kinds, or of one. What they start from is made in a folder, by processes of their own."""
    share = {name: max(1, round(count * part)) for name, part in SHARES.items() if kind in (None, name)}
    if kind:
        share = {kind: count}
    model, rows = folder / "model", folder / "rows.jsonl"
    for name in ("records", "checkpoints"):
        (folder / name).mkdir()
    rows.write_text("".join(json.dumps({"problem": f"{i}+{i}=?", "solution": f"{2 * i}"}) + "\n" for i in range(40)))
    apart(lambda: make_model(model), folder)
    cases: list[Case] = []
    for name, number in share.items():
        match name:
            case "configuration":
                cases += configuration.cases(number, model, rows)
            case "record":
                apart(lambda: records.template(folder / "records"), folder)
                cases += records.cases(number, folder / "records")
            case "data file":
                cases += files.data_cases(number, model)
            case "benchmark file":
                cases += files.benchmark_cases(number)
            case "model folder":
                cases += models.cases(number, model)
            case "checkpoint":
                apart(lambda: checkpoints.template(folder / "checkpoints"), folder)
                cases += checkpoints.cases(number, folder / "checkpoints")
            case "signal":
                cases += undisturbed(number, folder / "undisturbed", model, rows)
    return cases


def sample(count: int, folder: Path) -> list[Case]:
    """Cases of the cheap kinds, some of each, for the ordinary tests."""
    chance = random.Random(count)
    return [case for name in SHARES if name != "signal" for case in chosen(name, count, folder, chance)]


def chosen(name: str, count: int, folder: Path, chance: random.Random) -> list[Case]:
    place = folder / name.replace(" ", "-")
    place.mkdir()
    return chance.sample(of(200, place, name), round(count * SHARES[name] / (1 - SHARES["signal"])))


def undisturbed(number: int, folder: Path, model: Path, rows: Path) -> list[Case]:
    began = time.monotonic()
    apart(command(*signals.command_line(model, rows)), folder)
    seconds = time.monotonic() - began
    return signals.cases(number, model, rows, seconds, signals.end(folder))


def make_model(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from losslab.data import toy_task

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(toy_task.model_config()).save_pretrained(folder)
    toy_task.tokenizer().save_pretrained(folder)


def apart(run, folder: Path) -> None:
    """Run what would start threads in a process of its own, so that this one can still fork."""
    folder.mkdir(exist_ok=True)
    ending = runner.end_of(Case("", "", run, (), seconds=600), folder, folder.with_name(folder.name + ".apart"))
    assert ending.status == 0, ending.output
