"""A model card from a cell's record: objective, data, scores with intervals, provenance, and the hub's metadata."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from hydra.utils import get_class

from losslab.composition.record_file import refuse_unknown_objective
from losslab.config.paths import CONF
from losslab.config.schema import EMBEDDED_MODELS
from losslab.config.sweep import SweepConfig
from losslab.data.read_files import FORMATS, suffix
from losslab.evaluation.contamination import UNSEARCHED
from losslab.files.content import named
from losslab.files.json_files import read_json
from losslab.records.reading import read_yaml
from losslab.records.record import Cell
from losslab.results import labels, table_formats, tables

PATHS = ("path", "validation", "image_folder", "source", "data")  # keys whose value may be a path of this machine
PRIVATE = ("machine", "tracker", "sweep", "plan", "force", "stage")  # where and how it ran: not shown


def card(cell: Cell, repo: str, licence: str) -> ModelCard:
    """The card of a finished cell, for a repository of the hub."""
    config, scores = public(cell), scored(cell)
    base, data = config["model"]["path"], config["dataset"]["path"]
    metadata = ModelCardData(
        license=licence,
        base_model=base if on_hub(cell, "model") else None,
        datasets=[data] if on_hub(cell, "dataset") else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["losslab", config["names"]["loss"]],
        model_name=repo.split("/")[-1],
        eval_results=[result for part in scores.values() for result in results(benchmarks(cell), part)] or None,
    )
    parts = [f"---\n{metadata.to_yaml()}\n---", f"# {repo.split('/')[-1]}", summary(config), objective(config)]
    parts += [recipe(cell, config), tabled(scores), *ablations(cell), provenance(cell)]
    return ModelCard("\n\n".join(parts) + "\n", ignore_metadata_errors=False)


def public(cell: Cell) -> dict[str, Any]:
    """A cell's configuration without machine keys, and with file names instead of paths."""
    config = yaml.safe_load((cell.folder / "config.yaml").read_text(encoding="utf-8"))
    for group in cell.state().get("local", []):
        config[group]["path"] = Path(config[group]["path"]).name
    return {key: _without_folders(value) for key, value in config.items() if key not in PRIVATE}


def _without_folders(part: Any) -> Any:
    """A part of a configuration with the names of local files and folders in the place of their paths."""
    if not isinstance(part, dict):
        return part
    return {
        key: shown(value) if key in PATHS and isinstance(value, str) else _without_folders(value)
        for key, value in part.items()
    }


def benchmarks(cell: Cell) -> dict[str, Any]:
    """The shipped benchmarks and those of the cell's configuration, since it may be scored on more than that names."""
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((CONF / "benchmark").glob("*.yaml"))]
    shipped = {name: about for file in files for name, about in file.items()}
    return shipped | read_yaml(cell.folder / "config.yaml")["benchmark"]


def shown(path: str) -> str:
    return Path(path).name if local(path) else path


def local(path: str) -> bool:
    """Whether a path is local, to this machine or to the one that made the record, rather than a hub id."""
    parts = Path(path).parts
    file = suffix(path)[0] in FORMATS
    return Path(path).is_absolute() or path.startswith((".", "~")) or len(parts) > 2 or file or bool(named(path))


def on_hub(cell: Cell, group: str) -> bool:
    """Whether a path is a hub id: `ckpts/x` looks like one, and the record knows that it was a folder."""
    if group in cell.state().get("local", []):
        return False
    path = yaml.safe_load((cell.folder / "config.yaml").read_text(encoding="utf-8"))[group]["path"]
    return path not in EMBEDDED_MODELS and not local(path) and not Path(path).is_dir()


def scored(cell: Cell) -> dict[str, dict[str, Any]]:
    """The content of each scores.json, by folder of the protocol, without paths and addresses of this machine."""
    scores = {path.parent.name: read_json(path) for path in sorted(cell.folder.glob("scores/*/scores.json"))}
    return {protocol: _without_places(part) for protocol, part in scores.items()}


def _without_places(scores: dict[str, Any]) -> dict[str, Any]:
    """Scores without the path of the model, the address of an endpoint, and why training data could not be read.

    The notes go as a whole, since the warnings have their texts too.
    """
    kept = {key: value for key, value in scores.items() if key not in ("model", "endpoint", "notes")}
    texts = [UNSEARCHED if text.startswith(UNSEARCHED) else text for text in scores.get("warnings", [])]
    return kept | {"warnings": texts}


def results(about: dict[str, Any], scores: dict[str, Any]) -> Iterator[EvalResult]:
    """The scores as the hub's EvalResult, with what `benchmarks` says of each benchmark."""
    for name, part in scores["benchmarks"].items():
        yield EvalResult(
            task_type="text-generation",
            dataset_type=shown(source(about, scores, name).get("path", name)),
            dataset_name=name,
            metric_type="accuracy",
            metric_name=f"avg@{part['samples']}, {scores['verdict']} verdict, 95% interval {interval(part)}",
            metric_value=round(part["score"], 2),
        )


def source(about: dict[str, Any], scores: dict[str, Any], name: str) -> dict[str, Any]:
    """Where the problems of the scores on a benchmark come from; of older scores, what `benchmarks` says of it."""
    found: dict[str, Any] = scores.get("sources", {}).get(name) or about.get(name, {})
    return found


def interval(part: dict[str, Any]) -> str:
    return "unknown" if part["interval"] is None else "{:.1f} to {:.1f}".format(*part["interval"])


def summary(config: dict[str, Any]) -> str:
    return (
        f"`{config['model']['path']}` trained on `{config['dataset']['path']}` with the objective "
        f"`{config['names']['loss']}`, by losslab, which trains a model with each of several objectives and scores all "
        "results under one protocol."
    )


def objective(config: dict[str, Any]) -> str:
    target, parameters = config["loss"]["_target_"], {k: v for k, v in config["loss"].items() if k != "_target_"}
    try:
        refuse_unknown_objective(config["loss"], "the record")  # before its module is imported
        text = inspect.getdoc(get_class(target)) or ""
    except Exception:  # a module that is not on this machine's path
        text = f"The class {target}, which is not part of losslab."
    values = ", ".join(f"`{key}` = {value}" for key, value in parameters.items())
    return f"## Objective\n\n```\n{text}\n```" + (f"\n\nParameters: {values}." if values else "")


def recipe(cell: Cell, config: dict[str, Any]) -> str:
    data, train, optimizer, schedule = (config[key] for key in ("dataset", "train", "optimizer", "scheduler"))
    about = read_json(cell.folder / "data.json")
    counts = ", ".join(
        f"{about[key]:,} {key.replace('_', ' ')}" for key in ("examples", "answer_tokens") if key in about
    )
    rank, steps = config["adapter"]["rank"], train.get("max_steps")
    ended = steps is not None and about.get("steps", steps) == steps  # else the epochs ended first
    warm_up = schedule.get("warmup_steps")
    lines = [
        f"- data: `{data['path']}`, split `{data['split']}`, {data['selection']} {data['rows'] or 'all'} rows"
        + (f" ({counts})" if counts else ""),
        f"- `{optimizer['_target_']}`, learning rate {optimizer['lr']:g}, weight decay {optimizer['weight_decay']:g}, "
        f"{schedule['shape']} schedule with a warm-up of "
        + (f"{schedule['warmup_ratio']:g}" if warm_up is None else f"{warm_up:,} steps"),
        f"- {train['epochs']} epochs, {f'ended after {steps:,} steps, ' if ended else ''}{train['batch_size']} rows a "
        f"step, {train['max_length']} tokens a row, seed {config['seed']}",
        f"- {f'LoRA of rank {rank}, merged' if rank else 'all weights trained'}, {train['precision']} arithmetic",
    ]
    return "## Data and training\n\n" + "\n".join(lines) + "\n\n`losslab/config.yaml` has every value."


def tabled(scores: dict[str, dict[str, Any]]) -> str:
    if not scores:
        return "## Scores\n\nNone yet."
    parts = ["## Scores"]
    for protocol, part in scores.items():
        rows = part["benchmarks"] | ({"average": part["average"]} if "average" in part else {})
        lines = ["| benchmark | accuracy, % | 95% interval | samples |", "|---|---:|---:|---:|"]
        lines += [
            f"| {n} | {row['score']:.1f} | {interval(row)} | {row.get('samples', '')} |" for n, row in rows.items()
        ]
        engine = f"{part.get('engine', 'unknown engine')} {part.get('engine_version', '')}".strip()
        parts.append(f"Protocol `{protocol}`, {part['verdict']} verdict, {engine}:\n\n" + "\n".join(lines))
        parts += [f"Warning: {warning}" for warning in part.get("warnings", [])]
    return "\n\n".join(parts)


def ablations(cell: Cell) -> Iterator[str]:
    """The tables of the cell's sweeps whose records are in this results folder."""
    for sweep in cell.state().get("sweeps", []):
        try:
            table = tables.build(SweepConfig(name=sweep), str(cell.folder.parent.parent))
        except ValueError:
            continue
        rows = _rows_without_folders(table.rows)
        rows = [replace(row, label=label) for row, label in zip(rows, labels.labels(rows), strict=True)]
        yield table_formats.markdown(table_formats.scores_sheet(replace(table, rows=rows)), level=2).strip()


def _rows_without_folders(rows: Sequence[tables.Row]) -> list[tables.Row]:
    """Rows whose labels name local files and folders without their paths; those of one name are numbered."""
    paths: dict[str, list[str]] = {}  # of each key, the different values
    for row in rows:
        for key, value in row.config.items():
            if key.rpartition(".")[2] in PATHS and isinstance(value, str) and value not in paths.setdefault(key, []):
                paths[key].append(value)
    names: dict[tuple[str, str], str] = {}
    for key, values in paths.items():
        for value in values:
            alike = [other for other in values if shown(other) == shown(value)]
            number = f"({alike.index(value) + 1})" if len(alike) > 1 else ""
            names[key, value] = f"{shown(value)}{number}"
    return [
        replace(
            row,
            config={
                key: names.get((key, value), value) if isinstance(value, str) else value
                for key, value in row.config.items()
            },
        )
        for row in rows
    ]


def provenance(cell: Cell) -> str:
    about = read_json(cell.folder / "environment.json")
    changed = ", with uncommitted changes, which are not included here" if about.get("dirty") else ""
    versions = ", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items())
    lines = [
        f"- commit of losslab: {about.get('commit') or 'unknown'}{changed}",
        f"- cell: `{cell.folder.name}`, identity `{cell.identity}`",
        f"- versions: {versions or 'unknown'}",
        f"- hardware: {', '.join(about.get('gpus', [])) or 'CPU'}",
    ]
    return "## Provenance\n\n" + "\n".join(lines)
