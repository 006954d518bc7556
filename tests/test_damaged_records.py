"""Damaged and hostile records: one line for each file, a marked row, and everything else as before."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from rich.console import Console

from losslab.composition.checks import check_sweep
from losslab.config.log import printable
from losslab.config.sweep import SweepConfig
from losslab.launchers import status
from losslab.records.reading import DamagedRecord, last_rows, read_cell, read_rows, read_scores, read_yaml
from losslab.report.page import write_reports
from losslab.results import plots
from losslab.results.compare import compare
from losslab.results.write_tables import write_tables

sys.path.append(str(ROOT / "benchmarks"))
import latency_readers as latency  # noqa: E402

OBJECTIVES = ("sft", "dft", "iw_sft", "power", "asft")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """One cell of each of five objectives."""
    folder = tmp_path_factory.mktemp("whole")
    latency.write_records(folder, len(OBJECTIVES), {"math500": 4, "amc23": 3})
    return folder


@pytest.fixture
def results(whole, tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(plots, "draw", lambda *_: None)
    return Path(shutil.copytree(whole, tmp_path / "results"))


def of(results: Path, objective: str) -> Path:
    (folder,) = results.glob(f"cells/tiny-numina-{objective}-s0-*")
    return folder


def everything(results: Path, capsys) -> dict[str, str]:
    """What table, status and report print and write of the sweep, and what goes to stderr; nothing raises."""
    write_tables([], str(results))
    told = capsys.readouterr()
    Console(width=300).print(status.status_table("s", status.statuses(latency.SWEEP, str(results))))
    (page,) = write_reports([], str(results))
    rest = capsys.readouterr()
    table = (results / "tables" / latency.SWEEP / "table.md").read_text()
    return {"table": table, "errors": told.err, "status": rest.out, "page": page.read_text(), "page errors": rest.err}


DAMAGES = [
    ("cell.json", "", "is empty"),
    ("cell.json", "[]", "holds no JSON object"),
    ("cell.json", "null", "holds no JSON object"),
    ("cell.json", '{"sweeps": ["synthetic"], "seed": 0}', "lacks names"),
    ("cell.json", '{"version": 99}', "is of version 99, and this losslab reads up to 1: update it"),
    ("cell.json", "[" * 100_000, "is not JSON"),
    ("config.yaml", "", "is empty"),
    ("config.yaml", "a: &a [x, x]\nb: *a", "is not a YAML mapping"),
    ("config.yaml", "!!python/object/apply:os.system ['touch escaped']", "is not a YAML mapping"),
    ("config.yaml", "model: {", "is not a YAML mapping"),
    ("config.yaml", None, "is missing"),
    ("config.yaml", ("lr: 1.0e-06", "lr: fast"), "optimizer.lr is 'fast', not a number"),
    ("config.yaml", ("loss: dft", "loss: [dft]"), "names.loss is ['dft'], not text"),
    ("scores/paper-12345678/scores.json", "", "is empty"),
    ("scores/paper-12345678/scores.json", ('"score": ', '"score": "high", "was": '), "score is 'high', not a number"),
    ("scores/paper-12345678/scores.json", ('"score": ', '"score": NaN, "was": '), "score is nan, not a number"),
    ("scores/paper-12345678/scores.json", ('"verdict"', '"veredict"'), None),
    ("scores/paper-12345678/protocol.yaml", "- x", "is not a YAML mapping"),
    ("scores/paper-12345678/protocol.yaml", None, "is missing"),
    ("scores/paper-12345678/protocol.yaml", ("benchmarks:", "marks:"), "names no benchmarks"),
]


@pytest.mark.parametrize(("name", "content", "fault"), DAMAGES)
def test_a_damaged_file_is_one_line_and_a_marked_row(results, capsys, name, content, fault):
    cell = of(results, "dft")
    if content is None:
        (cell / name).unlink()
    elif isinstance(content, tuple):
        text = (cell / name).read_text()
        assert content[0] in text
        (cell / name).write_text(text.replace(*content))
    else:
        (cell / name).write_text(content)
    shown = everything(results, capsys)
    for objective in ("sft", "iw_sft", "power", "asft"):
        assert f"| tiny | {objective} |" in shown["table"] and cell.with_name(objective).name in shown["page"]
    if fault is None:  # no verdict: its scores compare with nothing
        assert shown["errors"] == ""
        return
    assert f"damaged: {cell / name}: " in shown["errors"] and fault in shown["errors"]
    assert shown["errors"].count("\n") == 1 and shown["page errors"].count("damaged:") == 1
    assert "(damaged record)" in shown["table"] and "1 damaged file is left out: " in shown["table"]
    if name == "cell.json":
        assert "damaged" in shown["status"] and fault.split(" and ")[0] in shown["status"]


def test_a_record_without_a_name_of_its_sweep_is_a_line(results, capsys):
    cell = of(results, "dft")
    (cell / "cell.json").write_text("")
    (cell / "config.yaml").write_text("")
    shown = everything(results, capsys)
    assert (
        shown["errors"].endswith(f" WARNING damaged: {cell / 'cell.json'}: is empty\n") and "dft" not in shown["table"]
    )
    status.show([], str(results), watch=False)
    assert "cell.json: is empty" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("environment.json", ""),
        ("environment.json", '{"gpus": "many"}'),
        ("holder.json", "[]"),
        ("data.json", '{"steps": "many"}'),
        ("metrics.jsonl", '{"step": "first"}\n'),
        ("metrics.jsonl", "{\n"),
        ("probabilities.json", '{"before": 1, "after": 2}'),
        ("scores/paper-12345678/kl_to_base.json", '{"per_token": [0.1, "wide"]}'),
        ("scores/paper-12345678/kl_to_base.json", '{"per_token": [0.1, 0.2]}'),
        ("scores/paper-12345678/math500.jsonl", '{"index": 0}\n'),
        ("scores/paper-12345678/math500.jsonl", "[]\n"),
    ],
)
def test_a_file_beside_is_left_out_and_named(results, capsys, name, content):
    (of(results, "dft") / name).write_text(content)
    shown = everything(results, capsys)
    assert all(f"| tiny | {objective} |" in shown["table"] for objective in OBJECTIVES)
    told = shown["errors"] + shown["page errors"] + shown["status"]
    assert str(of(results, "dft") / name) in told.replace("\n", "")
    assert "Traceback" not in told


@pytest.mark.parametrize("name", ["../../../X", "/tmp/X", "", ".", "..", "a/../b", "a//b", "a/", "x\n", "\x1b[31m"])
def test_a_sweep_is_named_like_a_folder_below_results(results, capsys, name):
    with pytest.raises(ValueError, match="^sweep.name=.* cannot name a folder"):
        check_sweep(SweepConfig(name=name))
    cell = of(results, "dft") / "cell.json"
    before = {path for path in results.parent.rglob("*") if not path.is_relative_to(results)}
    cell.write_text(json.dumps(json.loads(cell.read_text()) | {"sweeps": [name, latency.SWEEP]}))
    shown = everything(results, capsys)
    assert "| tiny | dft (damaged record) |" in shown["table"] and "cannot be the name of a sweep" in shown["errors"]
    assert {path for path in results.parent.rglob("*") if not path.is_relative_to(results)} == before
    assert [path.name for path in (results / "tables").iterdir()] == [latency.SWEEP]
    assert "\x1b" not in shown["errors"]


def test_a_terminal_gets_no_escape_sequences_of_records(results, capsys):
    assert printable("a\x1b[31mb\u202ec\r\n±–") == "a\\x1b[31mb\\u202ec\\r\\n±–"
    cell = of(results, "dft")
    state = json.loads((cell / "cell.json").read_text())
    state |= {"state": "failed", "error": "\x1b]0;owned\x07 broken", "job": "\x1b[2J"}
    state["names"]["method"] = "m\x1b[2J"
    (cell / "cell.json").write_text(json.dumps(state | {"methods": {latency.SWEEP: "m\x1b[2J|x"}}))
    write_tables([], str(results))
    status.show([], str(results), watch=False)
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out and "broken" in out
    text = (results / "tables" / latency.SWEEP / "table.md").read_text()
    assert "| tiny | m\\x1b[2J\\|x |" in text and "\x1b" not in text


def test_cells_compare_without_their_samples_where_counts_are_on_record(results):
    a, b = (of(results, objective) / "scores/paper-12345678" for objective in ("sft", "dft"))
    whole = compare((str(a), str(b)))
    (b / "math500.jsonl").unlink()
    assert compare((str(a), str(b))) == whole
    scores = json.loads((b / "scores.json").read_text())
    for part in scores["benchmarks"].values():  # of version 0: from before there were counts
        del part["right"]
    del scores["version"]
    (b / "scores.json").write_text(json.dumps(scores))
    with pytest.raises(DamagedRecord, match=r"math500.jsonl: is missing$"):
        compare((str(a), str(b)))
    shutil.copy(a / "math500.jsonl", b / "math500.jsonl")
    same = compare((str(a), str(b))).splitlines()[4].split("|")
    assert same[1].strip() == "math500" and same[4].strip() == "+0.0"
    (b / "math500.jsonl").write_text('{"samples": [{}]}\n')
    with pytest.raises(DamagedRecord, match="a sample its official verdict"):
        compare((str(a), str(b)))
    (b / "protocol.yaml").write_text("- x\n")
    with pytest.raises(DamagedRecord, match="protocol.yaml: is not a YAML mapping"):
        compare((str(a), str(b)))


def test_records_of_version_0_are_read(tmp_path):
    scores = {"benchmarks": {"x": {"score": 1.0, "interval": [float("-inf"), float("inf")], "samples": 1}}}
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    assert read_scores(tmp_path / "scores.json")["benchmarks"]["x"]["interval"] is None
    assert read_cell(tmp_path / "cell.json") == {}


def test_sections_of_a_configuration_are_read_one_by_one(tmp_path):
    import yaml
    from omegaconf import OmegaConf

    content = {"a": {"text": "x\n\ny: 1\n- z", "list": ["p\nq", 2]}, "b": [1, {"c": None}], "d e": "1e-5", "f": "- g"}
    for text in (yaml.safe_dump(content), OmegaConf.to_yaml(OmegaConf.create(content)), json.dumps(content)):
        (tmp_path / "config.yaml").write_text(text)
        assert read_yaml(tmp_path / "config.yaml") == content


def test_last_rows_are_read_from_the_end(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": i, "text": "x" * (i * 37 % 5000)} for i in range(50)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"torn')
    for count in (1, 2, 20, 50, 99):
        assert last_rows(path, count) == rows[-count:]
    assert read_rows(path) == rows and last_rows(tmp_path / "none", 3) == []
    path.write_text('{"step": 1}\n{"a": 1}, {"b": 2}\n')
    with pytest.raises(DamagedRecord, match="line 2 is damaged"):
        read_rows(path)
