"""W&B's real offline files, read back; and a tracker that fails or hangs."""

import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from wandb.proto import wandb_internal_pb2

from losslab import tracking
from losslab.diagnostics import EDGES
from losslab.files import append_line, write_json, write_lines
from losslab.records import Cell
from losslab.schema import Config, MachineConfig, Names, TrackerConfig, TrackerMode


@pytest.fixture
def cell(tmp_path) -> tuple[Config, Cell]:
    names = Names(model="tiny", dataset="embedded", loss="dft", eval="paper")
    config = Config(
        names=names,
        machine=MachineConfig(results=str(tmp_path)),
        tracker=TrackerConfig(mode=TrackerMode.offline),
        loss={"_target_": "losslab.objectives.dft.DFT"},
    )
    config.model.path = config.dataset.path = "embedded"
    config.optimizer._target_, config.optimizer.lr = "torch.optim.AdamW", 1e-3
    found = Cell.of(config)
    found.folder.mkdir(parents=True)
    return config, found


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


def row(step: int) -> dict:
    return {"step": step, "loss": 0.5 / step, "p_histogram": [step] * (len(EDGES) - 1)}


def key(item) -> str:
    return item.key or "/".join(item.nested_key)


def test_offline_file_holds_config_metrics_scores_and_samples(cell):
    config, found = cell
    scores = found.scores(config)
    with tracking.follow(config, found):
        for step in (1, 2, 3):
            append_line(found.metrics, row(step))
        samples = [{"text": "4", "extracted": "4", "official": True}]
        record = {"index": 0, "question": "2+2=?", "gold": "4", "samples": samples}
        scores.mkdir(parents=True)
        write_lines(scores / "tiny_add.jsonl", [record])
        benchmarks = {"tiny_add": {"score": 75.0}}
        write_json(
            scores / "scores.json", {"verdict": "official", "benchmarks": benchmarks, "average": {"score": 75.0}}
        )
    (file,) = found.folder.glob("wandb/offline-run-*/*.wandb")
    found_records = list(records(file))
    run = next(r.run for r in found_records if r.WhichOneof("record_type") == "run")
    assert (run.run_id, run.run_group, run.project) == (found.folder.name, "ablation", "losslab")
    assert list(run.tags) == ["tiny", "embedded", "dft"]
    assert '"losslab.objectives.dft.DFT"' in next(u.value_json for u in run.config.update if key(u) == "loss")
    history = [{key(i): i.value_json for i in r.history.item} for r in found_records if r.HasField("history")]
    assert [float(h["train/loss"]) for h in history if "train/loss" in h] == [0.5, 0.25, 0.5 / 3]
    assert any("table-file" in h.get("samples/tiny_add/_type", h.get("samples/tiny_add", "")) for h in history), history
    summary = {key(i): i.value_json for r in found_records if r.HasField("summary") for i in r.summary.update}
    assert [float(summary[name]) for name in ("scores/tiny_add", "scores/average")] == [75.0, 75.0]


def test_a_failing_tracker_is_a_remark(cell, monkeypatch, capsys):
    config, found = cell
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with tracking.follow(config, found):
        append_line(found.metrics, row(1))
    assert "the tracker failed, the records are complete" in capsys.readouterr().out


def test_a_hanging_tracker_is_left_behind(cell, monkeypatch, tmp_path, capsys):
    config, found = cell
    sleeper = tmp_path / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 600\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    monkeypatch.setattr(tracking, "PATIENCE_SECONDS", 0.2)
    began = time.monotonic()
    with tracking.follow(config, found):
        pass
    assert time.monotonic() - began < 10
    assert "the tracker did not finish, the records are complete" in capsys.readouterr().out


def test_an_error_of_the_run_passes_through(cell):
    config, found = cell
    config = replace(config, tracker=TrackerConfig(mode=TrackerMode.disabled))
    with pytest.raises(ArithmeticError, match="the run's own"), tracking.follow(config, found):
        raise ArithmeticError("the run's own")


def test_mode_without_a_login_is_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert tracking.resolve(TrackerMode.auto) == TrackerMode.offline
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert tracking.resolve(TrackerMode.auto) == TrackerMode.online
    assert tracking.resolve(TrackerMode.disabled) == TrackerMode.disabled
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert tracking.resolve(TrackerMode.auto) == TrackerMode.offline
