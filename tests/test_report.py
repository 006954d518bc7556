"""The page of a sweep: its figures against the statistics of the records, and the page itself in a real browser.

The browser is the system's Chromium; without one its tests are skipped, or fail where LOSSLAB_CHROMIUM=required.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from place import LOSSLAB
from test_tables import cell

from losslab.config.machine import MachineConfig
from losslab.config.schema import BASE, Config, Names, OptimizerConfig, TrainConfig
from losslab.config.sweep import SweepConfig
from losslab.evaluation import scores
from losslab.files.atomic import write
from losslab.files.json_files import read_json, write_json, write_lines
from losslab.records.cell_records import cell_records
from losslab.records.record import Cell
from losslab.report import charts, costs, training
from losslab.report.charts import ChartLine
from losslab.report.diagnostic_notes import diagnostic_notes
from losslab.report.page import write_report, write_reports
from losslab.report.row_samples import LONGEST, TEXTS
from losslab.report.rows import ReportCell, ReportRow, drawn_rows, report_rows
from losslab.results import tables
from losslab.results.learning_curves import AVERAGE
from losslab.results.load_records import CellScores
from losslab.results.problem_shares import Scores
from losslab.results.right_shares import right_shares
from losslab.results.tables import Row, Table
from losslab.statistics.intervals import Estimate, over_seeds_and_problems, simultaneous_level

NAMES = ("easy", "hard")
PROBLEMS, SAMPLES, STEPS = 12, 4, 130
TARGETS = {
    "sft": "losslab.objectives.sft.SFT",
    "dft": "losslab.objectives.dft.DFT",
    BASE: "losslab.objectives.base.Base",
}
EASE = {BASE: 0.3, "sft": 0.5, "dft": 0.9}  # chance of a right sample
HOSTILE = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"


def declare(results: Path, loss: str, seed: int) -> tuple[Cell, Config]:
    config = Config(
        names=Names(model="tiny", dataset="embedded", loss=loss, eval="paper"),
        machine=MachineConfig(results=str(results)),
        optimizer=OptimizerConfig(_target_="torch.optim.AdamW", lr=1e-3),
        loss={"_target_": TARGETS[loss]},
        train=TrainConfig(clip=0.01),
        sweep=SweepConfig(name="study", question=f"Which? {HOSTILE}"),
        seed=seed,
    )
    config.model.path = config.dataset.path = "embedded"
    cell = Cell.of(config)
    cell.declare(config)
    write_json(cell.folder / "environment.json", {"commit": "0123456789abcdef", "dirty": True, "gpus": []})
    return cell, config


def record(results: Path, loss: str, seed: int) -> None:
    """A cell as training and scoring leave it, with chance in place of a model."""
    cell, config = declare(results, loss, seed)
    rng, folder = np.random.default_rng([seed, len(loss)]), cell.scores(config)
    parts = {}
    for name in NAMES:
        marks = rng.random((PROBLEMS, SAMPLES)) < EASE[loss] * (0.5 if name == "hard" else 1)
        records = [
            {
                "index": i,
                "question": f"{name} question {i} {HOSTILE}",
                "gold": str(i),
                "seen": None,
                "groups": {"level": "01"[i % 2]} if name == "easy" else {},
                "samples": [
                    {
                        "text": f"{loss} says {i} {HOSTILE}" + "x" * (3 * LONGEST if i == j == 0 else 0),
                        "extracted": str(i) if right else HOSTILE,
                        "official": bool(right),
                        "corrected": bool(right) or (i == 1 and j == 0),
                        "finish_reason": "length" if i == 2 and loss == "sft" else "stop",
                        "tokens": 10,
                        "timed_out": False,
                    }
                    for j, right in enumerate(row)
                ],
            }
            for i, row in enumerate(marks)
        ]
        write_lines(folder / f"{name}.jsonl", records)
        parts[name] = scores.summarise(records, SAMPLES, "official")
    warnings = ["easy: nobody knows"] if loss == "sft" else []
    about = {
        "verdict": "official",
        "benchmarks": parts,
        "average": scores.average(parts, "official"),
        "warnings": warnings,
    }
    write_json(folder / "scores.json", about)
    write(folder / "protocol.yaml", yaml.safe_dump({"benchmarks": dict.fromkeys(NAMES, "sha256")}))
    if loss != BASE:
        write_lines(cell.metrics, [step(loss, i, rng) for i in range(1, STEPS + 1)])
        write_json(folder / "steps/00000065/scores.json", about)
        cell.update(training_seconds=1800.0, devices=4)
    if loss == "dft":  # ten minutes on two devices, then 25 on four
        cell.update(training_seconds=2100.0, training_device_seconds=7200.0)
        ends = {"edges": [0.0, 0.01, 0.9, 1.0], "tokens": 100, "lowest": [[HOSTILE, 7]], "highest": [["the", 40]]}
        before, after = ends | {"counts": [10, 80, 10]}, ends | {"counts": [40, 20, 40]}
        write_json(cell.folder / "probabilities.json", {"before": before, "after": after})
    cell.update(state="done", scoring_seconds=900.0)


def step(loss: str, number: int, rng: np.random.Generator) -> dict[str, object]:
    """DFT as its users meet it: a small loss that falls while cross-entropy rises; an end that is not learned."""
    share = number / STEPS
    row = {"step": number, "loss": 1.0 - 0.5 * share, "cross_entropy": 1.0 - 0.5 * share, "eos_p": 0.9}
    if loss == "dft":
        row |= {"loss": 0.1 - 0.05 * share, "cross_entropy": 1.0 + 0.5 * share, "eos_p": 0.01}
    middle = round(100 * (1 - share))
    histogram = [200 - middle] + 6 * [0] + [2 * middle] + 4 * [0] + [200 - middle]
    rates = {"mean_weight": 1.0, "effective_fraction": 0.5, "gradient_norm": 0.1 + 0.01 * float(rng.random())}
    return row | rates | {"p_histogram": histogram, "tokens": 1000, "seconds": 0.5, "peak_memory": 10**9}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for loss in TARGETS:
        for seed in (0, 1, 2):
            record(folder, loss, seed)
    failed, config = declare(folder, "dft", 3)
    failed.fail(config, ArithmeticError(f"broken {HOSTILE}"))
    return folder


@pytest.fixture(scope="module")
def page(results) -> Path:
    (path,) = write_reports(["study"], str(results))
    return path


def shares_of(folder: Path) -> dict[str, np.ndarray]:
    return right_shares(folder, read_json(folder / "scores.json"), "official")


def test_the_page_says_what_the_records_say(results, page):
    text = page.read_text()
    assert text.count("<section") == text.count("</section>") == 9
    assert "<h3>easy by level</h3>" in text and "hard by" not in text
    level = np.mean(
        [
            read_json(p / "scores.json")["benchmarks"]["easy"]["breakdown"]["level"]["1"]["score"]
            for p in results.glob("cells/tiny-embedded-sft-s*/scores/*")
        ]
    )
    assert f'<td class="number">{level:.1f} ± ' in text
    cells = {loss: sorted(results.glob(f"cells/tiny-embedded-{loss}-s*/scores/*")) for loss in ("sft", "dft")}
    sft, dft = (np.stack([shares_of(one)["easy"] for one in cells[loss]]) for loss in cells)
    found = over_seeds_and_problems([100 * (dft - sft)], simultaneous_level(2))  # of dft and the base
    assert found.nonzero
    assert text.index("<p><strong>dft is the best, with an average of ") < text.index('id="table"')
    assert f'<span class="difference better">{found.mean:+.1f} ± {found.half:.1f}</span>' in text
    assert f"{100 * dft.mean():.1f} <small>± " in text and "reference" in text
    assert "<b>9<small>/10</small></b>" in text and "1 failed" in text
    facts = dict(re.findall(r"<summary>(.*?)</summary>\n<ul>(.*?)</ul>", text))
    assert {title: re.findall(r"<b>(.*?)</b>", own) for title, own in facts.items()} == {
        "The end of an answer is not learned": ["dft"],
        "The evaluation warns": ["sft"],
        "The loss is much smaller than cross-entropy: that is normal": ["dft"],
        "Cross-entropy rises while the loss falls: probabilities polarise": ["dft"],
        "Most steps are clipped": ["sft", "dft"],
        "All objectives were trained at the same learning rate": ["optimizer.lr=0.001"],
    }
    assert "0.052 against 1.5 nats at the end of training, 28 times" in text
    assert "tokens with p &lt; 0.01 from 10% to 40%, with p ≥ 0.9 from 10% to 40%" in text
    assert text.count("first and last batch; p &lt; 0.01: 25% → 50%") == 1  # sft
    assert text.count("over the training set; p &lt; 0.01: 10% → 40%") == 1  # dft
    assert re.search(r"p from 0.01 to 0.9: 80.00% before, 20.00% after", text)
    costs = re.findall(r'data-value="([\d.]+)">([\d.]+ \w+)</td>', text[text.index('id="costs"') :])
    assert costs.count(("6.0", "6.0 h")) == 2  # of training: three seeds, two hours of a device each
    assert costs.count(("0.75", "45.0 min")) == 3  # of scoring, on one device
    assert ("390000", "390 k") in costs and ("0.5", "0.50 GB") not in costs


def test_scores_against_a_setting():
    def report_row(loss: str, rate: float, score: float, style: int) -> ReportRow:
        entry = CellScores(Path(), {}, 0, {}, "paper", {AVERAGE: Estimate(score, 2.0)})
        names = {"model": "tiny", "loss": loss, "method": None}
        return ReportRow(Row(names, {"optimizer.lr": rate}, None, [entry], f"{loss} {rate}"), style, [])

    groups = [report_row("sft", 1e-5, 10.0, 1), report_row("dft", 1e-5, 20.0, 2), report_row("sft", 1e-4, 30.0, 3)]
    table = Table(SweepConfig(against=["optimizer.lr"]), [], [], [one.row for one in groups], [])
    (chart,) = training.against_settings(table, groups)
    assert list(chart.legend) == [(1, "sft"), (2, "dft")]
    marks = re.findall(r'data-label="(\w+)" data-x="([^"]*)" data-v="([^"]*)"', chart.svg)
    assert marks == [("sft", "1e-05 0.0001", "10 30"), ("dft", "1e-05", "20")]
    zero = report_row("sft", 0.0, 10.0, 1)  # a setting of which zero alone was run
    (chart,) = training.against_settings(Table(table.sweep, [], [], [zero.row], []), [zero])
    assert 'data-x="0"' in chart.svg


@pytest.mark.parametrize(
    ("losses", "lines", "note"), [(9, 9, "percent"), (27, 24, "percent; 3 of 27 lines are left out")]
)
def test_a_tuned_sweep_of_more_rows_than_are_drawn(tmp_path, losses, lines, note):
    """27 rows, of which the 24 with the highest averages are drawn: each line of one of them has all of its points."""
    rates = 27 // losses
    for i in range(losses):
        for j in range(rates):
            cell(tmp_path, f"loss{i}", 0, {"math500": float(losses * j + i)}, lr=10.0 ** (j - 5))
    sweep = SweepConfig(name="study", tune="optimizer.lr")
    write_report(sweep, str(tmp_path))
    table = tables.build(sweep, str(tmp_path))
    rows = report_rows(table, cell_records(str(tmp_path)))
    assert len(rows) == 27
    (chart,) = training.against_settings(table, drawn_rows(rows, None))
    marks = re.findall(r'data-label="(\w+)" data-x="[^"]*" data-v="([^"]*)"', chart.svg)
    assert len(marks) == lines and chart.note == note
    first = losses - lines
    assert dict(marks)[f"loss{first}"] == " ".join(f"{losses * j + first}" for j in range(rates))


def test_the_cost_of_multi_step_problems_is_that_of_all_their_questions(tmp_path):
    """A problem of three questions, each with two samples of ten tokens; of another benchmark four problems."""
    made = cell(tmp_path, "sft", 0, {"wemath": 50.0, "math500": 50.0}, samples=2)
    (path,) = made.folder.glob("scores/*/scores.json")
    content = read_json(path)
    content["benchmarks"]["wemath"] |= {"problems": 1, "questions": 3, "mean_tokens": 10.0}
    content["benchmarks"]["math500"] |= {"problems": 4, "mean_tokens": 5.0}
    write_json(path, content)
    table = tables.build(SweepConfig(name="study"), str(tmp_path))
    (report_row,) = report_rows(table, cell_records(str(tmp_path)))
    found = costs.cell_cost(report_row.cells[0], Scores(table))
    assert (found.samples, found.sampled) == (3 * 2 + 4 * 2, 3 * 2 * 10 + 4 * 2 * 5)


def test_a_setting_that_a_trained_row_lacks_differs():
    """A base is excused, and an older record, which has the default of a newer key: one epoch."""

    def report_row(loss: str, **config: object) -> ReportRow:
        values = {key.replace("__", "."): value for key, value in config.items()} | {"loss": loss}
        return ReportRow(Row({"model": "tiny", "loss": loss, "method": None}, values, None, [], loss), 1, [])

    base, sft = report_row(BASE), report_row("sft", optimizer__lr=1e-4)
    power = report_row("power", optimizer__lr=1e-4, loss__alpha=0.5, train__epochs=1)
    found = costs.settings([base, sft, power])
    assert found.differing == [("loss", [BASE, "sft", "power"]), ("loss.alpha", ["–", "–", "0.5"])]
    assert found.common == [("optimizer.lr", "0.0001"), ("train.epochs", "1")]
    longer = report_row("power", optimizer__lr=1e-4, train__epochs=3)
    assert ("train.epochs", ["–", "1", "3"]) in costs.settings([base, sft, longer]).differing
    damaged = report_row("dft", damaged="tiny-dft-s0")
    assert ("optimizer.lr", "0.0001") in costs.settings([base, sft, power, damaged]).common


def test_each_note_is_said_where_the_records_show_it_and_only_there(tmp_path):
    table = Table(SweepConfig(), [], [], [], [])

    def notes(**steps: float) -> list[str]:
        plain = {"loss": 1.0, "cross_entropy": 1.0, "eos_p": 0.9, "effective_fraction": 0.5, "gradient_norm": 0.5}
        write_lines(tmp_path / "metrics.jsonl", [{"step": i} | plain | steps for i in range(1, 21)])
        write(tmp_path / "config.yaml", "train:\n  clip: 1.0\n")
        names = {"model": "tiny", "loss": "sft", "method": None}
        row = ReportRow(Row(names, {}, None, [], "sft"), 1, [ReportCell(table, tmp_path, 0)])
        return [note.title for note in diagnostic_notes([row], [], Scores(table))]

    assert notes() == []
    assert notes(eos_p=0.49) == ["The end of an answer is not learned"]
    assert notes(skipped=1) == ["Updates were skipped"]
    assert notes(loss=0.33) == ["The loss is much smaller than cross-entropy: that is normal"]
    assert notes(effective_fraction=0.24) == ["Few tokens carry the steps"]
    assert notes(gradient_norm=1.01) == ["Most steps are clipped"]


def test_a_chart_has_its_points_where_the_values_are():
    lines = [ChartLine(1, "sft", [(0, 10.0), (50, 20.0), (100, 30.0)], band=[(50, 15.0, 25.0)])]
    svg = charts.lines("accuracy", lines)
    (points,) = re.findall(r'<polyline class="line[^>]* points="([^"]*)"', svg)
    places = [tuple(map(float, point.split(","))) for point in points.split()]
    assert [x for x, _ in places] == [44.0, 198.0, 352.0]  # from the axis to the right edge
    (first, second, third) = [y for _, y in places]
    assert first > second > third and first - second == pytest.approx(second - third, abs=0.11)
    (band,) = re.findall(r'<polygon class="band[^>]* points="([^"]*)"', svg)
    low, high = (float(point.split(",")[1]) for point in band.split())
    assert (low - high) == pytest.approx(first - second, abs=0.11) and low + high == pytest.approx(2 * second, abs=0.11)


def attributes(svg: str, tag: str, *names: str) -> list[tuple[float, ...]]:
    """Of all elements that have these attributes, in their order, as numbers."""
    found = [dict(re.findall(r'([\w-]+)="([^"]*)"', text)) for text in re.findall(rf"<{tag} ([^>]*)>", svg)]
    return [tuple(float(of[name]) for name in names) for of in found if "grid" not in of["class"]]


def test_the_intervals_of_rows_are_where_their_values_are():
    """Names of three letters end at 18 + 3 * 6.3; the scale begins there, at 28.5, and ends at 346, at 61.5: that is
    5% of the 30 points from 30 to 60 on each side."""
    svg = charts.intervals("x", [(1, "sft", 40.0, 10.0), (2, "dft", 60.0, None), (3, "nft", 60.0, float("inf"))])
    left, unit = 36.9, (346 - 36.9) / 33
    places = [left + unit * (value - 28.5) for value in (30.0, 40.0, 50.0, 60.0)]
    assert attributes(svg, "line", "x1", "x2", "y1", "y2") == [pytest.approx((places[0], places[2], 19, 19), abs=0.06)]
    rows = [(places[1], 8 + 11), (places[3], 8 + 33), (places[3], 8 + 55)]
    assert attributes(svg, "circle", "cx", "cy") == [pytest.approx(row, abs=0.06) for row in rows]
    ticks = re.findall(r'<text x="([^"]*)" y="[^"]*" text-anchor="middle">([^<]*)<', svg)
    assert ticks and all(float(x) == pytest.approx(left + unit * (float(t) - 28.5), abs=0.06) for x, t in ticks)


def test_gain_and_loss_are_crosses_where_their_values_are():
    """Both scales begin at zero, at the lower left corner (44, 210), and end 5% above their largest value: 15.75 of the
    loss at 352, 31.5 of the gain at 8."""
    svg = charts.crosses("x", [(1, "sft", Estimate(10.0, 5.0), Estimate(20.0, 10.0))])
    x, y = (lambda loss: 44 + 308 * loss / 15.75), (lambda gain: 210 - 202 * gain / 31.5)
    assert attributes(svg, "circle", "cx", "cy") == [(44, 210), pytest.approx((x(10), y(20)), abs=0.06)]
    lines = attributes(svg, "line", "x1", "x2", "y1", "y2")
    assert lines[:2] == [(44, 44, 210, 210)] * 2  # of the base
    assert lines[2:] == [
        pytest.approx((x(5), x(15), y(20), y(20)), abs=0.06),
        pytest.approx((x(10), x(10), y(10), y(30)), abs=0.06),
    ]


def test_a_histogram_has_bars_after_and_a_line_before_training():
    """From 0.01% at 150 to 100% at 8, by their logarithms; two bins from 44 to 352."""
    svg = charts.histogram("x", [0.0, 0.5, 1.0], [100.0, 1.0], [10.0, 0.001], 1)
    bars = [row for row in attributes(svg, "rect", "x", "y", "width", "height") if row[1] != 8]  # those behind the tips
    assert bars == [(45.5, 43.5, 151.0, 106.5), (199.5, 150.0, 151.0, 0.0)]  # what is below the scale has no height
    (stairs,) = re.findall(r'<polyline class="before" points="([^"]*)"', svg)
    assert stairs == "44.0,8.0 198.0,8.0 198.0,79.0 352.0,79.0"


def test_pages_are_of_sweeps_that_are_there(root, results, page):
    command = [*LOSSLAB, "report", "study", f"results={results}", "against=base"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"report:  {page}\n"), done.stderr
    assert "<option selected>base</option>" in page.read_text()
    for sweeps, folder, against, message in (
        (["study"], results, "rl", "no row is called rl: there are base, sft, dft"),
        (["other"], results, None, "no record of the sweep other"),
        ([], results / "none", None, "no record of any sweep"),
    ):
        with pytest.raises(ValueError, match=message):
            list(write_reports(sweeps, str(folder), against))
    assert list(write_reports([], str(results))) == [page] and "<option selected>sft</option>" in page.read_text()


def test_a_wheel_carries_the_page_and_its_sheets(root):
    build = "from setuptools import Distribution as D; d = D({'script_name': 'x'}); "
    build += "d.parse_config_files(['pyproject.toml']); b = d.get_command_obj('build_py'); b.finalize_options(); "
    build += "print(*b.get_outputs())"
    done = subprocess.run([sys.executable, "-c", build], cwd=root, capture_output=True, text=True)
    packages = ("report", "pages")
    carried = {Path(path).name for path in done.stdout.split() if Path(path).parent.name in packages}
    files = (path for name in packages for path in (root / "src/losslab" / name).iterdir())
    there = {path.name for path in files if path.is_file()}
    assert there == carried, done.stderr


@pytest.fixture(scope="module")
def browser() -> Iterator:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        assert os.environ.get("LOSSLAB_CHROMIUM") != "required", "no Chromium: apt-get install chromium"
        pytest.skip("no Chromium is installed: apt-get install chromium")
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser, page) -> Iterator:
    """The page in a window, which must stay silent: no message on the console, no request but its own."""
    said, asked = [], []
    tab = browser.new_page(viewport={"width": 1200, "height": 800})
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    yield tab
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    tab.close()


def column(tab, name: str) -> list[str]:
    index = tab.locator("#ablation thead th").all_inner_texts().index(name) + 1
    return tab.locator(f"#ablation tbody tr > :nth-child({index})").all_inner_texts()


def test_a_click_on_a_head_sorts(tab):
    rows = "#ablation tbody th"
    assert tab.locator(rows).all_inner_texts() == ["base", "sft", "dft"]
    head = tab.locator("#ablation th", has_text="average")
    head.locator("button").press("Enter")
    assert (
        tab.locator(rows).all_inner_texts() == ["dft", "sft", "base"]
        and head.get_attribute("aria-sort") == "descending"
    )
    head.locator("button").click()
    assert (
        tab.locator(rows).all_inner_texts() == ["base", "sft", "dft"] and head.get_attribute("aria-sort") == "ascending"
    )
    tab.locator("#ablation th", has_text="objective").locator("button").click()
    assert tab.locator(rows).all_inner_texts() == ["base", "dft", "sft"] and head.get_attribute("aria-sort") is None


def test_another_row_may_be_the_reference(tab):
    tab.select_option("#against", "dft")
    cells = dict(zip(tab.locator("#ablation tbody th").all_inner_texts(), column(tab, "average"), strict=True))
    assert "reference" in cells["dft"] and "−" in cells["sft"] and "−" in cells["base"]
    tab.select_option("#against", "base")
    cells = dict(zip(tab.locator("#ablation tbody th").all_inner_texts(), column(tab, "average"), strict=True))
    assert "reference" in cells["base"] and "+" in cells["sft"] and "+" in cells["dft"]


def test_samples_are_filtered(tab):
    def shown() -> str:
        return tab.locator("output[name=shown]").inner_text()

    def counted(verdict: str) -> int:
        tab.select_option("[name=verdict]", verdict)
        return int(shown().split()[0])

    assert shown() == "12 of 12 problems" and tab.locator("article").count() == 10
    tab.click("#more")
    assert tab.locator("article").count() == 12 and not tab.locator("#more").is_visible()
    assert [tab.locator(f"[name={side}]").evaluate("s => s.selectedOptions[0].text") for side in ("left", "right")] == [
        "sft, seed 0", "dft, seed 0",
    ]  # fmt: skip
    assert counted("solved") + counted("mixed") + counted("unsolved") >= 12
    better, worse = counted("better"), counted("worse")
    assert 0 < better <= 12 and better > worse
    assert counted("cut") == 1 and counted("disagree") <= 1
    tab.select_option("[name=verdict]", "all")
    tab.fill("[name=text]", "QUESTION 7")
    assert shown() == "1 of 12 problems" and "easy 7" in tab.locator("article h3").inner_text()
    tab.select_option("[name=benchmark]", "hard")
    assert "hard 7" in tab.locator("article h3").inner_text()
    tab.select_option("[name=right]", "")
    assert tab.locator(".side").count() == 1
    assert 0 < tab.locator(".side details").count() <= 2 * TEXTS


def test_what_a_model_wrote_stays_text(tab):
    tab.check("[name=open]")
    tab.select_option("[name=verdict]", "all")
    assert HOSTILE in tab.locator("article pre").first.inner_text()
    assert HOSTILE in tab.locator("article details pre").first.inner_text()
    assert HOSTILE in tab.locator(".question").inner_text()
    assert tab.evaluate("window.broken") is None and tab.locator("img").count() == 0
    assert "characters are left out here" in tab.locator("article").first.inner_text()


def test_charts_tell_their_values(tab):
    chart = tab.locator("#curves svg").first
    # A key right after the focus that scrolled to the chart: the event of that scroll comes later and hides nothing;
    # the scroll of a reader does.
    frames = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    tab.evaluate(f"""async () => {{
        scrollTo(0, 0); await {frames};
        const chart = document.querySelector("#curves svg");
        chart.focus(); chart.dispatchEvent(new KeyboardEvent("keydown", {{key: "ArrowLeft"}})); await {frames};
    }}""")
    assert tab.evaluate("scrollY") > 0 and tab.locator("#tip").is_visible()
    tab.evaluate(f"async () => {{ scrollBy(0, -9); await {frames}; }}")
    assert not tab.locator("#tip").is_visible()
    chart.blur()
    chart.focus()
    tab.keyboard.press("ArrowLeft")
    assert tab.locator("#tip").inner_text().split() == ["step", "130", "sft", "0.5019", "dft", "0.05019"]
    tab.locator(".legend button", has_text="sft").click()
    chart.focus()
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#tip").inner_text().split() == ["step", "2", "dft", "0.09942"]
    assert tab.locator("#curves svg .line:visible").count() == tab.locator("#curves svg").count()
    tab.locator("#probabilities [data-tip]").first.hover()
    assert "before" in tab.locator("#tip").inner_text()


def test_a_phone_the_dark_and_paper(tab):
    def colours() -> list[str]:
        return tab.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")

    light = colours()
    tab.emulate_media(color_scheme="dark")
    dark = colours()
    assert light[0] == "rgb(255, 255, 255)" and all(map(str.__ne__, light, dark))
    tab.set_viewport_size({"width": 390, "height": 844})
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tab.emulate_media(color_scheme="dark", media="print")
    assert colours() == light and not tab.locator("nav").is_visible()
    printed = tab.pdf()
    assert printed.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", printed)) >= 2


def test_links_lead_to_records(tab, page):
    links = [tab.evaluate("a => a.href", link) for link in tab.locator("#records a").element_handles()]
    assert len(links) > 20
    assert all((page.parent / os.path.relpath(link.removeprefix("file://"), page.parent)).exists() for link in links)
    failed = tab.locator("#records tr", has_text="failed")
    assert failed.count() == 1 and "ArithmeticError: broken" in failed.inner_text()
    tab.locator("#records details summary").click()
    assert "ArithmeticError" in tab.locator("#records details pre").inner_text()
