"""Records that are damaged, of another version, or written by a stranger, beside a good one that must not suffer."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from hostile.case import CODE, Case
from hostile.entry import command
from hostile.files import as_bytes, as_text, link, missing
from hostile.values import LONG, SHELL, TEXTS, draw, json_values
from losslab.config.machine import MachineConfig
from losslab.config.schema import Config, Names, OptimizerConfig
from losslab.config.sweep import SweepConfig
from losslab.data.probability_bins import EDGES
from losslab.evaluation import scores
from losslab.files.atomic import write
from losslab.files.json_files import write_json, write_lines
from losslab.records.record import Cell

SWEEP, BENCHMARK, PROBLEMS = "good", "tiny_add", 6
LOSSES = ("sft", "dft")  # the good cell's, and that of the one that is damaged
READERS = {"table": ("table", SWEEP), "report": ("report", SWEEP), "status": ("status", SWEEP), "all": ("status",)}
FILES = ("cell.json", "config.yaml", "metrics.jsonl", "environment.json", "holder.json", "scores.json",
         f"{BENCHMARK}.jsonl", "protocol.yaml", "data.json", "probabilities.json",
         "validation.jsonl", "tokens.json")  # fmt: skip


def template(results: Path) -> None:
    """Two finished cells of one sweep, as training and scoring leave them."""
    for number, loss in enumerate(LOSSES):
        config = Config(
            names=Names(model="tiny", dataset="rows", loss=loss, eval="paper"),
            machine=MachineConfig(results=str(results)),
            optimizer=OptimizerConfig(_target_="torch.optim.AdamW", lr=1e-3),
            loss={"_target_": f"losslab.objectives.{loss}.{loss.upper()}"},
            sweep=SweepConfig(name=SWEEP, question="Which one?"),
        )
        config.model.path = config.dataset.path = "embedded"
        cell = Cell.of(config)
        cell.declare(config)
        write_json(cell.folder / "environment.json", {"commit": "0123456789abcdef", "dirty": False, "gpus": []})
        write_json(cell.folder / "data.json", {"rows": 6, "examples": 6, "tokens": 60, "answer_tokens": 30, "steps": 2})
        folder = cell.scores(config)
        records = [one_record(i, right=(i + number) % 2 == 0) for i in range(PROBLEMS)]
        write_lines(folder / f"{BENCHMARK}.jsonl", records)
        part = scores.summarise(records, 1, "official")
        parts = {BENCHMARK: part}
        about = {
            "verdict": "official",
            "benchmarks": parts,
            "average": scores.average(parts, "official"),
            "warnings": [],
        }
        write_json(folder / "scores.json", about)
        protocol = {"benchmarks": {BENCHMARK: "sha"}, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 4}
        write(
            folder / "protocol.yaml",
            yaml.safe_dump(protocol | {"prompt": "chat", "stop": [], "engine": "x", "seeds": 0}),
        )
        write_lines(cell.metrics, [step(i) for i in (1, 2)])
        numbers = {"p": [0.5], "weight": [1.0]}
        example = {"number": 1, "tokens": ["1+1=?", "2"], "trained": [0, 1], "before": numbers, "after": numbers}
        write_json(cell.folder / "tokens.json", {"of": 6, "examples": [example]})
        write_lines(cell.validation, [{"step": 0, "loss": 1.5, "p_histogram": [1] * 13}])
        (cell.folder / "logs").mkdir()
        cell.update(state="done", training_seconds=1.0, scoring_seconds=1.0, devices=1)


def one_record(index: int, right: bool) -> dict[str, Any]:
    sample = {"text": f"answer {index}", "extracted": "1", "official": right, "corrected": right}
    sample |= {"finish_reason": "stop", "tokens": 3, "timed_out": False, "seed": 0}
    return {"index": index, "question": f"question {index}", "gold": "1", "seen": None, "samples": [sample]}


def step(number: int) -> dict[str, Any]:
    counts = [1] * (len(EDGES) - 1)
    row = {"step": number, "loss": 1.0 / number, "gradient_norm": 1.0, "lr": 1e-3, "answer_tokens": 100, "seconds": 1.0}
    row |= {"p": 0.5, "p_histogram": counts, "tokens_per_second": 100, "entropy": 1.0, "skipped": False}
    return row | {"data_seconds": 0.1, "checkpoint_seconds": 0.0}


def victim(results: Path) -> Path:
    (cell,) = results.glob("cells/tiny-rows-dft-*")
    return cell


def place(cell: Path, name: str) -> Path:
    """Where a file of a record lies."""
    return next(cell.rglob(name), cell / name)


def raw() -> dict[str, Callable[[Path], None]]:
    return {
        "missing": missing,
        "empty": as_bytes(b""),
        "null": as_text("null"),
        "a list": as_text("[]"),
        "an empty object": as_text("{}"),
        "a number": as_text("3"),
        "torn": lambda path: (
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if path.exists() else b"{") and None
        ),
        "zero bytes": as_bytes(b"\0" * 512),
        "not UTF-8": as_bytes(b"\xff\xfe{}"),
        "nested": as_text("[" * 20000),
        "a long number": as_text('{"a": ' + "9" * 5000 + "}"),
        "a link to nothing": link,
        "a tag of Python": as_text(f"!!python/object/apply:os.system ['touch {CODE}']\n"),
        "a pickle": as_bytes(b"cos\nsystem\n(S'touch " + CODE.encode() + b"'\ntR."),
    }


def paths_in(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths to all values in JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from paths_in(inner, (*path, key))


def with_value(content: Any, path: tuple, value: object, drop: bool) -> Any:
    if not path:
        return value
    copy = dict(content) if isinstance(content, dict) else list(content)
    if len(path) == 1:
        if drop:
            del copy[path[0]]
        else:
            copy[path[0]] = value
    else:
        copy[path[0]] = with_value(copy[path[0]], path[1:], value, drop)
    return copy


def replaced(name: str, writer: Callable[[Path], None]) -> Callable[[Path], None]:
    def damage(results: Path) -> None:
        path = place(victim(results), name)
        content = path.read_bytes() if path.exists() else None
        path.unlink(missing_ok=True)
        if content is not None and writer is not link:
            path.write_bytes(content)
        writer(path)

    return damage


def edited(name: str, path: tuple, value: object, drop: bool = False) -> Callable[[Path], None]:
    """Another value at a place of a record's file; of JSON lines in the first one."""

    def damage(results: Path) -> None:
        file = place(victim(results), name)
        lines = (
            file.read_text().splitlines() if name.endswith("l") and not name.endswith("yaml") else [file.read_text()]
        )
        load, dump = (yaml.safe_load, yaml.safe_dump) if name.endswith("yaml") else (json.loads, json.dumps)
        lines[0] = dump(with_value(load(lines[0]), path, value, drop))
        file.write_text("\n".join(lines) + "\n")

    return damage


def hostile_fields() -> dict[str, Callable[[Path], None]]:
    """What a stranger would write where a reader makes a path, a title or a class of it."""
    fields: dict[str, Callable[[Path], None]] = {}
    for text in ("../../../escape", "/escape", "..", "", "\x1b[2J", "<script>", LONG, SHELL, "a/b", "good\nbad"):
        fields[f"sweeps {text[:20]!r}"] = edited("cell.json", ("sweeps",), [SWEEP, text])
        fields[f"names.loss {text[:20]!r}"] = edited("cell.json", ("names", "loss"), text)
        fields[f"error {text[:20]!r}"] = edited("cell.json", ("error",), text)
        fields[f"state {text[:20]!r}"] = edited("cell.json", ("state",), text)
        fields[f"config names {text[:20]!r}"] = edited("config.yaml", ("names", "model"), text)
        fields[f"question {text[:20]!r}"] = edited(f"{BENCHMARK}.jsonl", ("question",), text)
    for target in ("os.system", "results.cells.payload.X", "antigravity.fly", "subprocess.Popen"):
        fields[f"objective {target}"] = edited(
            "config.yaml", ("loss",), {"_target_": target, "command": f"touch {CODE}"}
        )
    fields["an interpolation"] = edited("config.yaml", ("names", "dataset"), "${oc.env:HOME}")
    fields["remote code"] = edited("config.yaml", ("model", "trust_remote_code"), True)
    return fields


def damages(count: int, results: Path) -> list[tuple[str, str, Callable[[Path], None]]]:
    """Title, file and what is done to it."""
    listed = [(f"{name}: {title}", name, replaced(name, writer)) for name in FILES for title, writer in raw().items()]
    listed += [(title, "cell.json", damage) for title, damage in hostile_fields().items()]
    cell = victim(results)
    places = []
    for name in FILES:
        file = place(cell, name)
        if file.exists():
            load = yaml.safe_load if name.endswith("yaml") else json.loads
            text = file.read_text()
            content = load(text if name.endswith(("json", "yaml")) else text.splitlines()[0])
            places += [(name, path) for path in paths_in(content)]
    drawn = draw(
        st.tuples(st.sampled_from(places), json_values() | st.sampled_from(TEXTS), st.booleans()),
        max(0, count - len(listed)),
        4,
    )
    listed += [
        (
            f"{name} {'without ' if drop else ''}{path} {'' if drop else repr(value)}"[:110],
            name,
            edited(name, path, value, drop),
        )
        for (name, path), value, drop in drawn
    ]
    # Of a small number, some of each.
    return listed if len(listed) <= count else listed[:: max(1, len(listed) // max(1, count))][:count]


def cases(count: int, results: Path) -> list[Case]:
    """Each damage through one reader, in turn; `compare` and `push` now and then."""
    readers = list(READERS)
    made = []
    for number, (title, name, damage) in enumerate(damages(count, results)):
        reader = readers[number % len(readers)] if number % 7 else ("compare", "push")[number // 7 % 2]
        made.append(make(title, name, damage, reader, results))
    return made


def make(title: str, name: str, damage: Callable[[Path], None], reader: str, results: Path) -> Case:
    def prepare(folder: Path) -> None:
        shutil.copytree(results, folder / "results")
        damage(folder / "results")

    cell = victim(results).name
    good = next(path.name for path in results.glob("cells/*") if path.name != cell)
    if reader == "compare":
        run = command("compare", f"results/cells/{good}", f"results/cells/{cell}")
    elif reader == "push":
        run = command("push", f"results/cells/{cell}", "repo=user/name", "license=apache-2.0", "dry_run=true")
    else:
        run = command(*READERS[reader])

    def kept(folder: Path, output: str) -> str | None:
        """The good cell's files are as they were, and what is shown of the sweep has it."""
        for path in (results / "cells" / good).rglob("*"):
            copy = folder / "results/cells" / good / path.relative_to(results / "cells" / good)
            if path.is_file() and (not copy.is_file() or copy.read_bytes() != path.read_bytes()):
                return f"lost: {path.name} of the good cell"
        page = folder / f"results/reports/{SWEEP}.html"
        shown = {"report": page.read_text() if page.exists() else "", "compare": "sft", "push": "sft"}.get(
            reader, output
        )
        if "sft" not in shown:
            return f"lost: the good cell is not shown: {output.strip()[-300:]}"
        strange = {path.name for path in (folder / "results").iterdir()} - {
            "cells",
            "tables",
            "reports",
            "cache",
            "sweeps",
        }
        if strange:
            return f"escaped: {sorted(strange)[0]} was written into results"
        strange = {path.name for path in (folder / "results").glob("tables/*")} - {SWEEP}
        strange |= {path.name for path in (folder / "results").glob("reports/*")} - {f"{SWEEP}.html"}
        return f"escaped: {sorted(strange)[0]} was written into results" if strange else None

    return Case("record", f"{reader}: {title}", run, (name, cell, victim(results).name[:20]), prepare, verify=kept)
