"""W&B's real offline files and TensorBoard's event files, read back; and a tracker that fails or hangs."""

import json
import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from wandb.proto import wandb_internal_pb2

from losslab.composition.checks import check
from losslab.config.choices import TrackerMode, TrackerName
from losslab.config.machine import MachineConfig, TrackerConfig
from losslab.config.schema import BenchmarkConfig, Config, Names
from losslab.data.probability_bins import EDGES
from losslab.files.json_files import append_line, read_json, read_lines, write_json, write_lines
from losslab.records.record import Cell
from losslab.tracking import content, follow

STEPS = 3


@pytest.fixture
def cell(tmp_path) -> tuple[Config, Cell]:
    names = Names(model="tiny", dataset="embedded", loss="dft", eval="paper")
    config = Config(
        names=names,
        benchmark={"tiny_add": BenchmarkConfig(path="embedded")},
        machine=MachineConfig(results=str(tmp_path)),
        tracker=TrackerConfig(mode=TrackerMode.offline),
        loss={"_target_": "losslab.objectives.dft.DFT"},
    )
    config.model.path = config.dataset.path = "embedded"
    config.optimizer._target_, config.optimizer.lr = "torch.optim.AdamW", 1e-3
    found = Cell.of(config)
    found.declare(config)
    return config, found


def row(step: int) -> dict:
    return {"step": step, "loss": 0.5 / step, "p_histogram": [step] * (len(EDGES) - 1), "skipped": False}


def train(cell: Cell, first: int = 1) -> None:
    for step in range(first, STEPS + 1):
        append_line(cell.metrics, row(step))
    (cell.folder / "steps/00000002").mkdir(parents=True, exist_ok=True)
    write_json(cell.model / "config.json", {"model_type": "qwen2"})


def score(cell: Cell, config: Config, percent: float, step: int | None = None) -> None:
    folder = cell.scores(config, step)
    folder.mkdir(parents=True, exist_ok=True)
    samples = [{"text": "4|\n5", "extracted": "4", "official": True, "finish_reason": "stop", "tokens": 3}]
    write_lines(folder / "tiny_add.jsonl", [{"index": 0, "question": "2+2=?", "gold": "4", "samples": samples}])
    parts = {"tiny_add": {"score": percent, "interval": [percent - 3, percent + 3], "samples": 2}}
    found = {"verdict": "official", "benchmarks": parts, "average": {"score": percent}}
    write_json(folder / "scores.json", found)
    write_json(cell.scores(config) / "protocol.yaml", {"benchmarks": {"tiny_add": "0" * 64}})  # JSON is YAML


def records(file: Path) -> Iterator[wandb_internal_pb2.Record]:
    """W&B's offline log: a 7-byte header, then blocks of 32 KiB with (crc, length, type) before each fragment."""
    content, position, fragment = file.read_bytes(), 7, b""
    while position < len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        fragment += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last of several
            record = wandb_internal_pb2.Record()
            record.ParseFromString(fragment)
            yield record
            fragment = b""


def tree(items) -> dict:
    """Keys and JSON values, a nested key as a dictionary in a dictionary."""
    found: dict = {}
    for item in items:
        *path, last = [item.key] if item.key else item.nested_key
        place = found
        for part in path:
            place = place.setdefault(part, {})
        place[last] = json.loads(item.value_json)
    return found


class Offline:
    """What the one offline run in a folder says."""

    def __init__(self, folder: Path) -> None:
        (self.file,) = folder.glob("wandb/offline-run-*/*.wandb")
        self.records = list(records(self.file))
        self.run = next(r.run for r in self.records if r.HasField("run"))
        self.config = tree(self.run.config.update)
        self.history = [tree(r.history.item) for r in self.records if r.HasField("history")]
        self.summary = tree(u for r in self.records if r.HasField("summary") for u in r.summary.update)

    def curve(self, name: str) -> list[tuple[int, float]]:
        return [(h["train/step"], h[name]) for h in self.history if name in h]

    def table(self, name: str) -> dict:
        (path,) = (self.file.parent / "files/media/table").rglob(f"{Path(name).name}_*.table.json")
        return json.loads(path.read_text())


def whole_run(config: Config, cell: Cell) -> None:
    train(cell)
    ends = {"lowest": [["7", 3]], "highest": [["+", 9]]}
    measured = {"edges": [0.0, 0.5, 1.0], "tokens": 12} | ends
    both = {"before": measured | {"counts": [8, 4]}, "after": measured | {"counts": [3, 9]}}
    write_json(cell.probabilities, {"examples": 2} | both)
    score(cell, config, 75.0)
    score(cell, config, 60.0, step=2)
    cell.update(state="done", scoring_seconds=1.5)


def report(config: Config, cell: Cell) -> dict:
    """What the process beside the run does once it has been told of the end; returns what the run is about."""
    order = follow.order(config, cell)
    write_json(cell.folder / "tracker.json", order)
    follow.report(order, lambda: True)
    follow.report_table(order)
    return order["cell"]


def test_wandb_has_config_curves_scores_over_steps_samples_and_the_table(cell):
    config, found = cell
    config = replace(config, tracker=replace(config.tracker, checkpoints=True))
    with follow.follow(config, found):
        whole_run(config, found)
    run = Offline(found.folder)
    about = run.run
    assert (about.display_name, about.run_group, about.job_type) == (found.folder.name, "ablation", "train")
    assert list(about.tags) == ["ablation", "tiny", "embedded", "dft", "paper"] and about.project == "losslab"
    assert run.config["names"]["loss"] == "dft" and run.config["loss"]["_target_"] == "losslab.objectives.dft.DFT"
    assert run.config["seed"] == 0
    assert run.curve("train/loss") == [(1, 0.5), (2, 0.25), (3, 0.5 / 3)]
    assert run.curve("scores/tiny_add") == run.curve("scores/average") == [(2, 60.0), (3, 75.0)]
    histogram = run.curve("train/p")[1][1]
    assert histogram["values"] == [2] * (len(EDGES) - 1) and histogram["bins"] == list(EDGES)
    ((step, after),) = run.curve("probabilities/after")
    assert (step, after["values"], after["bins"]) == (3, [3, 9], [0.0, 0.5, 1.0])
    assert run.table("probabilities/tokens")["data"][0] == ["before", "lowest", "7", 3]
    axes = {m.metric.glob_name: m.metric.step_metric for m in run.records if m.HasField("metric")}
    assert axes["scores/*"] == axes["breakdown/*"] == axes["train/*"] == "train/step"
    assert run.summary["scores/tiny_add"] == run.summary["scores/average"] == 75.0
    assert run.summary["train/loss"] == 0.5 / 3 and run.summary["train/step"] == 3
    assert (run.summary["state"], run.summary["scoring_seconds"]) == ("done", 1.5)
    samples = run.table("samples/tiny_add")
    assert dict(zip(samples["columns"], samples["data"][0], strict=True)) == {
        "problem": 0, "question": "2+2=?", "gold": "4", "sample": "4|\n5", "extracted": "4", "correct": True,
        "finish_reason": "stop", "tokens": 3,
    }  # fmt: skip
    artifacts = {r.request.log_artifact.artifact.type for r in run.records if r.HasField("request")}
    artifacts |= {r.artifact.type for r in run.records if r.HasField("artifact")}
    assert "model" in artifacts

    table = Offline(Path(config.machine.results) / "tables/ablation")
    assert (table.run.run_group, table.run.job_type) == ("ablation", "table")
    shown = table.table("table")
    numbers = ["seeds", "seeds_asked", "tiny_add", "tiny_add_half", "average", "average_half"]
    assert shown["columns"] == ["model", "objective", *numbers]
    assert shown["data"] == [["tiny", "dft", 1, 1, 75.0, 3.0, 75.0, 3.0]]


def test_the_run_of_the_table_says_which_objective_is_better(cell):
    """Two seeds of each: of two samples of a problem dft has one more right than sft."""
    config, of_dft = cell
    for loss, more in (("sft", 0), ("dft", 1)):
        for seed in (0, 1):
            target = {"_target_": f"losslab.objectives.{loss}.{loss.upper()}"}
            own = replace(config, names=replace(config.names, loss=loss), loss=target, seed=seed)
            found, right = Cell.of(own), [more, more + 1] * 20
            found.declare(own)
            score(found, own, 100 * sum(right) / 80)
            scores = found.scores(own) / "scores.json"
            content = read_json(scores)
            content["benchmarks"]["tiny_add"]["right"] = dict.fromkeys(("official", "corrected"), right)
            write_json(scores, content)
    with follow.follow(config, of_dft):  # in a process of its own, at whose end the files are complete
        pass
    table = Offline(Path(config.machine.results) / "tables/ablation")
    answer, grounds, *_ = table.summary["conclusion"].split("\n")
    assert answer == "dft is the best, with an average of 75.0%: better than sft (50.0 points, 50.0 to 50.0)."
    assert "over 2 seeds and 40 problems of tiny_add with 2 samples each" in grounds
    assert [r.run.notes for r in table.records if r.HasField("run")][-1] == table.summary["conclusion"]
    assert (table.summary["cells"], table.summary["scored"]) == (4, 4)


def test_a_run_that_goes_on_is_one_run_and_told_once(cell):
    config, found = cell
    write_lines(found.metrics, [row(1), row(2)])
    identity = report(config, found)["id"]
    write_lines(found.metrics, [row(1)])  # the run was killed, and its checkpoint is of step 1
    train(found, first=2)
    report(config, found)
    run = Offline(found.folder)  # one folder
    assert run.run.run_id == identity
    assert run.curve("train/loss") == [(1, 0.5), (2, 0.25), (3, 0.5 / 3)]
    synced = run.file.parent.rename(found.folder / "wandb" / f"offline-run-20260101_000000-{identity}")
    (synced / f"run-{identity}.wandb.synced").touch()  # as `wandb sync` leaves it
    score(found, config, 75.0)
    score(found, config, 60.0, step=2)
    report(config, found)
    assert synced.is_dir()
    synced.rename(found.folder / "synced")
    run = Offline(found.folder)  # what W&B has not yet
    assert run.run.run_id == identity and run.curve("train/loss") == []
    assert run.curve("scores/average") == [(2, 60.0), (3, 75.0)]
    other = replace(config, eval=replace(config.eval, temperature=0.5))
    assert follow.order(other, found)["cell"]["id"] != identity  # scores of another protocol are another run
    (found.folder / "tracker.json").unlink()  # as force=true does
    assert follow.order(config, found)["cell"]["id"] != identity


def test_scores_that_change_after_an_upload_are_further_entries(cell):
    config, found = cell
    train(found)
    score(found, config, 75.0)
    score(found, config, 60.0, step=2)
    identity = report(config, found)["id"]

    def uploaded(day: int) -> Path:
        (folder,) = found.folder.glob("wandb/offline-run-*")
        synced = folder.rename(found.folder / "wandb" / f"offline-run-2026010{day}_000000-{identity}")
        (synced / f"run-{identity}.wandb.synced").touch()  # as `wandb sync` leaves it
        return synced

    first = uploaded(1)
    path = found.scores(config) / "scores.json"
    scored = read_json(path)
    further = scored["benchmarks"] | {"tiny_word": {"score": 50.0, "interval": [40.0, 60.0], "samples": 2}}
    write_lines(path.with_name("tiny_word.jsonl"), read_lines(path.with_name("tiny_add.jsonl")))
    write_json(path, scored | {"benchmarks": further})
    report(config, found)
    first.rename(found.folder / "first")
    run = Offline(found.folder)  # what W&B has not yet
    assert run.curve("scores/tiny_word") == [(3, 50.0)] and run.curve("scores/tiny_add") == []
    assert [r.history.step.num for r in run.records if r.HasField("history")] == [6]
    (found.folder / "first").rename(first)
    run.file.with_name(f"{run.file.name}.synced").touch()
    report(config, found)
    last = max((found.folder / "wandb").glob("offline-run-*"))
    assert not any(r.HasField("history") for r in records(next(last.glob("*.wandb"))))  # nothing has changed


def test_scores_that_change_are_sent_where_the_first_attempt_ended_before_them(cell):
    """Three attempts, each of which is uploaded: training, scores, and other scores."""
    config, found = cell
    train(found)
    identity, curves = report(config, found)["id"], []
    for day, value in ((1, 75.0), (2, 80.0)):
        (folder,) = found.folder.glob("wandb/offline-run-*")
        synced = folder.rename(folder.with_name(f"offline-run-2026010{day}_000000-{identity}"))
        (synced / f"run-{identity}.wandb.synced").touch()
        score(found, config, value)
        score(found, config, 60.0, step=2)
        report(config, found)
        earlier = sorted(found.folder.glob("wandb/offline-run-2026*"))[:-1]
        hidden = [path.rename(found.folder / path.name) for path in earlier]
        curves.append(Offline(found.folder).curve("scores/tiny_add"))
        for path in hidden:  # `run-`: a run that was online counts as uploaded
            path.rename(found.folder / "wandb" / path.name.removeprefix("offline-"))
    assert curves == [[(2, 60.0), (3, 75.0)], [(3, 80.0)]]


def test_what_a_run_has_is_not_sent_again(cell):
    config, found = cell

    def numbers(*benchmarks: str, after: int = -1) -> list[int]:
        return [e.number for e in content.entries(found, found.scores(config), [*benchmarks], True, after)]

    train(found)
    score(found, config, 75.0)
    assert numbers("tiny_add") == [1, 2, 3]  # a model on the way is not scored yet
    score(found, config, 60.0, step=2)
    assert numbers("tiny_add", after=2) == [3, 4, 5] and numbers("tiny_add", after=4) == [5]
    assert numbers("tiny_add", "tiny_long", after=3) == []
    told = {"2": {"scores/tiny_add": 60.0, "scores/average": 60.0}}
    told["3"] = {"scores/tiny_add": 75.0, "scores/average": 75.0}

    def changed(after: int) -> list[tuple[int, int, dict[str, float]]]:
        every = content.entries(found, found.scores(config), ["tiny_add"], True, after, told)
        return [(e.number, e.step, e.values) for e in every]

    assert changed(after=5) == []
    score(found, config, 80.0)  # by another verdict
    assert changed(after=5) == [(6, 3, {"scores/tiny_add": 80.0, "scores/average": 80.0})]
    assert numbers("tiny_add", after=5) == []  # of a run without a record of its scores
    score(found, config, 65.0, step=2)
    assert [row[:2] for row in changed(after=6)] == [(7, 2), (8, 3)]
    assert [row[:2] for row in changed(after=4)] == [(5, 2), (6, 3)]  # the model's own were not sent yet
    (found.model / "config.json").unlink()
    found.model.rmdir()  # scores of a model that is being trained again are not its
    assert numbers("tiny_add") == [1, 2, 3]


def test_a_row_without_diagnostics_is_shown_as_far_as_it_goes(cell):
    config, found = cell
    append_line(found.metrics, {"step": 1, "loss": 0.1, "reward": 0.25, "seconds": 2.0, "note": None})
    (entry,) = content.entries(found, found.scores(config), ["tiny_add"], True)
    assert entry.values == {"train/step": 1, "train/loss": 0.1, "train/reward": 0.25, "train/seconds": 2.0}
    assert not entry.histograms


def test_tensorboard_has_the_same(cell):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    config, found = cell
    config = replace(config, tracker=TrackerConfig(name=TrackerName.tensorboard))
    whole_run(config, found)
    report(config, found)
    report(config, found)  # once more, as after a requeue: nothing is doubled
    folder = found.folder / "tensorboard" / found.scores(config).name
    assert len(list(folder.iterdir())) == 1
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0, "histograms": 0}).Reload()
    curve = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert curve["train/loss"] == [(1, 0.5), (2, 0.25), (3, pytest.approx(0.5 / 3))]
    assert curve["scores/tiny_add"] == [(2, 60.0), (3, 75.0)]
    histogram = events.Histograms("train/p")[2].histogram_value
    assert list(histogram.bucket) == [3.0] * (len(EDGES) - 1) and list(histogram.bucket_limit) == list(EDGES[1:])
    (before,) = events.Histograms("probabilities/before")
    assert before.step == 3 and list(before.histogram_value.bucket) == [8.0, 4.0]
    (text,) = events.Tensors("samples/tiny_add/text_summary")
    assert "| 0 | 2+2=? | 4 | 4\\|<br>5 | 4 | True | stop | 3 |" in text.tensor_proto.string_val[0].decode()
    told = plugin_data_pb2.HParamsPluginData.FromString(
        events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    ).session_start_info.hparams
    assert told["loss"].string_value == "dft" and told["optimizer.lr"].number_value == 1e-3
    assert told["seed"].number_value == 0
    table = EventAccumulator(str(Path(config.machine.results) / "tables/ablation/tensorboard/table")).Reload()
    (text,) = table.Tensors("table/text_summary")
    assert "| tiny | dft | 1 | 1 | 75 | 3 | 75 | 3 |" in text.tensor_proto.string_val[0].decode()


def test_a_failing_tracker_is_a_remark(cell, monkeypatch, capsys):
    config, found = cell
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with follow.follow(config, found):
        append_line(found.metrics, row(1))
    assert re.search(r"the tracker failed \(.+\); the records are complete", capsys.readouterr().err)


def test_a_tracker_that_cannot_start_is_a_remark(cell, monkeypatch, capsys):
    config, found = cell
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with follow.follow(config, found):
        append_line(found.metrics, row(1))
    assert "the tracker does not start: [Errno 2]" in capsys.readouterr().err


def test_a_hanging_tracker_is_left_behind(cell, monkeypatch, tmp_path, capsys):
    config, found = cell
    sleeper = tmp_path / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 600\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    monkeypatch.setattr(follow, "PATIENCE_SECONDS", 0.2)
    with follow.follow(config, found):
        pass
    assert "the tracker did not finish (its log is empty); the records are complete" in capsys.readouterr().err


def test_an_error_of_the_run_passes_through(cell):
    config, found = cell
    config = replace(config, tracker=TrackerConfig(name=TrackerName.none))
    with pytest.raises(ArithmeticError, match="the run's own"), follow.follow(config, found):
        raise ArithmeticError("the run's own")
    assert not (found.folder / "tracker.json").exists()


def test_mode_without_a_login_is_offline(cell, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    auto = TrackerConfig()
    assert follow.resolve(auto) == TrackerMode.offline
    config = replace(cell[0], tracker=auto)
    assert "wandb sync" in follow.hint(config)
    # A login is of a server, which may be one's own.
    (tmp_path / ".netrc").write_text(f"machine wandb.example.org login user password {'0' * 40}\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert follow.resolve(auto) == TrackerMode.offline
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080")
    assert follow.resolve(auto) == TrackerMode.online
    monkeypatch.delenv("WANDB_BASE_URL")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert follow.resolve(auto) == TrackerMode.online and follow.hint(config) == ""
    assert follow.resolve(TrackerConfig(mode=TrackerMode.disabled)) == TrackerMode.disabled
    assert follow.resolve(TrackerConfig(name=TrackerName.none)) == TrackerMode.disabled
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert follow.resolve(auto) == TrackerMode.offline


def test_tensorboard_keeps_no_models(cell):
    config, _ = cell
    with pytest.raises(ValueError, match="tracker=tensorboard keeps no models: leave tracker.checkpoints out"):
        check(replace(config, tracker=TrackerConfig(name=TrackerName.tensorboard, checkpoints=True)))
