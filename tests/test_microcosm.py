"""The microcosm's command in short: two of its twins, one seed, with the row of one more objective."""

import csv
import json
import subprocess
import sys

import pytest
from test_tables import cell

from losslab import microcosm, tables, versus
from losslab.files import write_lines
from losslab.render import markdown
from losslab.schema import SweepConfig


def test_an_objective_beside_its_rivals(tmp_path):
    for seed, (sft, dft, mine) in enumerate([(50, 60, 58), (40, 52, 52), (30, 44, 40)]):
        for loss, score in (("sft", sft), ("dft", dft), ("eaft", mine)):
            cell(tmp_path, loss, seed, {"math500": score})
    cell(tmp_path, "eaft", 0, {"math500": 20.0}, lr=0.1)  # at a rate that nobody else was run at
    cell(tmp_path, "eaft", 1, None, lr=0.2)
    lines = markdown(versus.sheet("eaft", [tables.build(SweepConfig(name="study"), str(tmp_path))])).splitlines()
    # eaft - sft: 8, 12, 10, half of the interval t(0.975, 2) 2 / sqrt(3); eaft - dft: -2, 0, -4, the same
    assert lines[2:6] == [
        "| study | setting | eaft | sft | dft |",
        "|---|---|---:|---:|---:|",
        "| study | optimizer.lr=0.1 | 20.0 ± 3.0 | – | – |",
        "| study | optimizer.lr=0.001 | 50.0 ± 22.8 | 40.0 ± 24.8 (+10.0 ± 5.0, better) "
        "| 52.0 ± 19.9 (-2.0 ± 5.0, open) |",
    ]


def test_a_digest_changes_with_the_samples(tmp_path):
    own = cell(tmp_path, "dft", 0, {"math500": 1.0})
    (scores,) = own.folder.glob("scores/*")
    write_lines(scores / "math500.jsonl", [{"index": 0, "samples": [{"text": "1", "official": True}]}])
    first = microcosm.digest({own.folder: own.state()})
    assert first.splitlines()[1].startswith(f"{own.folder.name},{own.identity},")
    assert first == microcosm.digest({own.folder: own.state()})
    write_lines(scores / "math500.jsonl", [{"index": 0, "samples": [{"text": "1", "official": False}]}])
    assert first != microcosm.digest({own.folder: own.state()})


def test_a_twin_that_is_not_there_is_named(capsys):
    with pytest.raises(ValueError, match="there is no twin tabel1; did you mean table1"):
        microcosm.main(["twins=tabel1"])


def test_two_twins_in_short(tmp_path, root):
    """Noisy demonstrations and new facts, one seed: the signs of both, and the row of one more objective."""
    command = [sys.executable, "-m", "losslab.microcosm", "twins=table1,facts", "seed=0", f"machine.results={tmp_path}"]
    short = ["eval.samples=4", "machine.export_steps=null", "tracker=none"]
    own = ["loss=power", "loss.alpha=0.5"]
    done = subprocess.run([*command, *short, *own], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    scores = {}
    for name in ("table1", "facts"):
        with (tmp_path / f"{name}.csv").open() as file:
            scores[name] = {row["objective"]: float(row["average"] or "nan") for row in csv.DictReader(file)}
    noisy, facts = scores["table1"], scores["facts"]
    assert noisy["base"] + 3 < noisy["sft"] < noisy["dft"] - 10
    assert facts["base"] == 0 and facts["sft"] > facts["dft"] + 20
    assert noisy["sft"] < noisy["power"] and facts["power"] < facts["sft"]
    page = (tmp_path / "power.md").read_text()
    assert f"| microcosm/table1 | – | {noisy['power']:.1f} ±" in page
    with (tmp_path / "records.csv").open() as file:
        records = list(csv.DictReader(file))
    cells = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("cells/*/cell.json")}
    assert {row["cell"]: row["identity"] for row in records} == {name: own["identity"] for name, own in cells.items()}
    assert len(records) == 7 and len({row["samples"] for row in records}) == 7  # the twins share their base
