"""A cell on the hub: the card as the hub reads it, what is uploaded, and what is not."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, ModelCard

from losslab.commands.cli import main
from losslab.config.machine import MachineConfig
from losslab.config.schema import BenchmarkConfig, Config, EvalConfig, Names, OptimizerConfig
from losslab.config.sweep import SweepConfig
from losslab.files.json_files import write_json, write_lines
from losslab.hub import model_card, push
from losslab.records.record import Cell


def configured(folder: Path, loss: str) -> Config:
    """A cell of a sweep, trained from a hub's model on a file of this machine."""
    config = Config(
        names=Names(model="qwen2.5-math-1.5b", dataset="rows", loss=loss, eval="paper"),
        machine=MachineConfig(results=str(folder / "results")),
        optimizer=OptimizerConfig(_target_="torch.optim.AdamW", lr=5e-5),
        loss={"_target_": f"losslab.objectives.{loss}.{loss.upper()}"} | ({"floor": 0.1} if loss == "dft" else {}),
        sweep=SweepConfig(name="study", question="Which?"),
        benchmark={
            "math500": BenchmarkConfig("HuggingFaceH4/MATH-500"),
            "own": BenchmarkConfig("/home/me/own.jsonl"),
        },
        eval=EvalConfig(data="/home/me/benchmarks"),
    )
    config.model.path, config.dataset.path = "Qwen/Qwen2.5-Math-1.5B", "/home/me/rows.jsonl"
    config.dataset.validation, config.dataset.image_folder = "/home/me/held.jsonl", "/home/me/pictures"
    config.dataset.source, config.reference.path = "/home/me/questions.jsonl", "/home/me/teacher"
    return config


@pytest.fixture
def cells(tmp_path, checkpoint) -> list[Cell]:
    """SFT and DFT of one sweep, trained and scored."""
    made = []
    for loss, score in {"sft": 60.0, "dft": 70.0}.items():
        config = configured(tmp_path, loss)
        cell = Cell.of(config)
        cell.declare(config)
        shutil.copytree(checkpoint, cell.model)
        write_json(
            cell.folder / "environment.json", {"commit": "abc123", "dirty": True, "command": ["/home/me/train.py"]}
        )
        write_lines(cell.metrics, [{"step": 1, "loss": 0.5}])
        part = {"score": score, "interval": [score - 2, score + 2], "samples": 16}
        found = {
            "model": "/home/me/model",
            "verdict": "official",
            "benchmarks": {"math500": part, "own": part, "aime25": part},
        }
        unread = "the training data could not be searched for benchmark problems: dataset.path=/home/me/rows.jsonl "
        unread += "names no file: check the path"
        found |= {"notes": {"own": [unread]}, "warnings": [unread, "own: nobody knows"]}
        found |= {"engine": "api", "engine_version": "2.0", "endpoint": "http://gpu7.home/me:8000/v1"}
        write_json(cell.scores(config) / "scores.json", found | {"average": part})
        hashes = dict.fromkeys(found["benchmarks"], "0" * 64)
        write_json(cell.scores(config) / "protocol.yaml", {"benchmarks": hashes, "temperature": 1.0})  # JSON is YAML
        made.append(cell)
    return made


def test_a_dry_run_writes_the_card_and_says_what_would_go(cells, monkeypatch, capsys, checkpoint):
    folder = cells[1].folder
    main(["push", str(folder), "repo=me/sums", "license=apache-2.0", "dry_run=true"])
    printed = capsys.readouterr().out
    card = ModelCard.load(folder / "hub/README.md")
    assert (card.data.license, card.data.base_model) == ("apache-2.0", "Qwen/Qwen2.5-Math-1.5B")
    assert card.data.model_name == "sums" and card.data.datasets is None  # a file of this machine
    (math, own, later) = card.data.eval_results
    assert own.dataset_type == "own.jsonl"
    assert later.dataset_type == "math-ai/aime25"  # scored later by `losslab evaluate`, so that the cell names it not
    assert (math.dataset_type, math.dataset_name, math.metric_value) == ("HuggingFaceH4/MATH-500", "math500", 70.0)
    assert math.metric_name == "avg@16, official verdict, 95% interval 68.0 to 72.0"
    assert "-sg(max(p, floor)) log p" in card.text and "`floor` = 0.1" in card.text
    assert "| math500 | 70.0 | 68.0 to 72.0 | 16 |" in card.text
    assert "abc123, with uncommitted changes" in card.text
    assert [line for line in card.text.splitlines() if line.startswith("| qwen2.5-math-1.5b | sft | 60.0 ± 2.0")]
    names = {path.name for path in checkpoint.iterdir()}
    uploaded = {line.split()[0] for line in printed.splitlines() if line.startswith("  ")}
    expected = {"README.md", "losslab/config.yaml", "losslab/metrics.jsonl", *names}
    assert expected < uploaded and {".eval_results/math500.yaml", ".eval_results/aime25.yaml"} < uploaded
    assert len(uploaded - expected) == 3  # both of these, and the scores under their protocol


def test_nothing_of_this_machine_is_uploaded(cells, tmp_path):
    """Of its rows, either, which tell cells of one sweep apart by their teachers, or by their data."""
    teacher, data = configured(tmp_path, "dft"), configured(tmp_path, "dft")
    teacher.reference.path, data.dataset.path = "/home/me/other/teacher", "/home/me/other/rows.jsonl"
    for config in (teacher, data):
        Cell.of(config).declare(config)
    files = push.stage(cells[1].folder, "me/sums", "apache-2.0")
    for name, path in files.items():
        if path.suffix in (".md", ".yaml", ".json", ".jsonl"):
            text = path.read_text()
            assert "/home/me" not in text and str(cells[1].folder.parent) not in text, name
            assert "gpu7" not in text, name
    scores = json.loads(next(p for n, p in files.items() if n.startswith("losslab/scores")).read_text())
    warnings = ["the training data could not be searched for benchmark problems", "own: nobody knows"]
    assert (scores["verdict"], scores["warnings"]) == ("official", warnings)
    card = files["README.md"].read_text().splitlines()
    rows = [line.split(" | ")[1] for line in card if line.startswith("| qwen2.5-math-1.5b | dft")]
    assert sorted(rows) == [
        "dft reference.path=teacher(1) dataset.path=rows.jsonl(1)",
        "dft reference.path=teacher(1) dataset.path=rows.jsonl(2)",
        "dft reference.path=teacher(2)",
    ]
    assert [line for line in card if line.startswith("Warning: ")] == [f"Warning: {text}" for text in warnings]


class Hub:
    """What this machine does not have: repositories, each with the names of the files of one branch."""

    def __init__(self, files: list[str], private: bool = True) -> None:
        self.files, self.private, self.calls = files, private, []

    def create_repo(self, repo, **options):
        self.calls.append((repo, options))

    def repo_info(self, repo):
        return SimpleNamespace(private=self.private)

    def list_repo_files(self, repo, *, revision):
        self.calls.append((repo, revision))
        return self.files

    def create_commit(self, repo, operations, *, commit_message, revision):
        self.calls.append((repo, revision))
        self.added = {one.path_in_repo: one for one in operations if isinstance(one, CommitOperationAdd)}
        self.removed = [one.path_in_repo for one in operations if isinstance(one, CommitOperationDelete)]
        assert len(operations) == len(self.added) + len(self.removed)


def test_the_upload_is_one_commit(cells, monkeypatch, capsys):
    hub = Hub([".gitattributes"])
    monkeypatch.setattr(push, "HfApi", lambda: hub)
    main(["push", str(cells[0].folder), "repo=me/sums", "license=mit", "private=true"])
    made = ("me/sums", {"private": True, "exist_ok": True})
    assert hub.calls == [made, ("me/sums", "main"), ("me/sums", "main")] and hub.removed == []
    assert {"README.md", "model.safetensors"} <= set(hub.added)
    assert all(Path(str(one.path_or_fileobj)).is_file() for one in hub.added.values())
    printed = capsys.readouterr().out
    assert "https://huggingface.co/me/sums" in printed and "removed" not in printed


def test_a_public_repository_takes_no_private_upload(cells, monkeypatch, capsys):
    hub = Hub([".gitattributes"], private=False)
    monkeypatch.setattr(push, "HfApi", lambda: hub)
    with pytest.raises(SystemExit) as ended:
        main(["push", str(cells[0].folder), "repo=me/sums", "license=mit", "private=true"])
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and line.endswith(
        "me/sums exists and is public: leave private=true out, make it private there, or name another repo"
    )
    assert hub.calls == [("me/sums", {"private": True, "exist_ok": True})]  # nothing was committed
    main(["push", str(cells[0].folder), "repo=me/sums", "license=mit"])
    assert "model.safetensors" in hub.added


def test_weights_and_scores_of_an_earlier_upload_are_removed(cells, monkeypatch, capsys):
    earlier = ["losslab/scores/greedy-0.json", ".eval_results/gsm8k.yaml", "model-00001-of-00002.safetensors"]
    earlier += ["model.safetensors.index.json"]
    theirs = [".gitattributes", "picture.png", "original/model.safetensors", "losslab.md", "config.json"]
    again = ["README.md", "model.safetensors", ".eval_results/math500.yaml", "losslab/config.yaml"]
    hub = Hub([*theirs, *earlier, *again])
    monkeypatch.setattr(push, "HfApi", lambda: hub)
    main(["push", str(cells[0].folder), "repo=me/sums", "license=mit", "revision=v2"])
    assert sorted(hub.removed) == sorted(earlier) and set(again) <= set(hub.added)
    assert hub.calls[1:] == [("me/sums", "v2")] * 2
    assert "removed 4 files of an earlier upload" in capsys.readouterr().out


@pytest.mark.parametrize(("revision", "shown"), [("main", "main"), ("v2", "v2"), ("sums/v2", "sums%2Fv2")])
def test_the_source_of_a_score_is_in_the_branch_of_the_upload(cells, revision, shown):
    main(["push", str(cells[0].folder), "repo=me/sums", "license=mit", "dry_run=true", f"revision={revision}"])
    (entry,) = yaml.safe_load((cells[0].folder / "hub/.eval_results/math500.yaml").read_text())
    protocol = next((cells[0].folder / "scores").iterdir()).name
    assert entry["source"]["url"] == f"https://huggingface.co/me/sums/blob/{shown}/losslab/scores/{protocol}.json"


def test_folders_of_the_model_are_uploaded_too(cells):
    template = cells[0].model / "additional_chat_templates/tools.jinja"
    template.parent.mkdir()
    template.write_text("{{ tools }}")
    assert push.stage(cells[0].folder, "me/sums", "mit")["additional_chat_templates/tools.jinja"] == template


def test_the_card_says_how_long_the_training_and_its_warm_up_were(cells):
    (cell, _), file = cells, cells[0].folder / "config.yaml"

    def lines(**keys) -> list[str]:
        config = yaml.safe_load(file.read_text())
        for name, value in keys.items():
            group = "scheduler" if name == "warmup_steps" else "train"
            config[group][name] = value
        return model_card.recipe(cell, config).splitlines()[3:5]

    plain = lines()
    assert plain[0].endswith("cosine schedule with a warm-up of 0.1") and plain[1].startswith("- 1 epochs, 256 rows")
    assert lines(warmup_steps=0)[0].endswith("cosine schedule with a warm-up of 0 steps")
    write_json(cell.folder / "data.json", {"steps": 1200})
    assert lines(max_steps=1200, epochs=3)[1].startswith("- 3 epochs, ended after 1,200 steps, 256 rows a step")
    assert lines(max_steps=5000, epochs=3)[1].startswith("- 3 epochs, 256 rows a step")  # which 3 epochs do not reach


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": "nowhere"}, "is not the folder of a cell: give one of results/cells"),
        ({"repo": "sums"}, "repo=sums has no user: write repo=USER/NAME"),
        ({"repo": "me/a b"}, "Repo id must"),
        ({"license": None}, "license has no value: losslab push CELL repo=USER/NAME license=apache-2.0"),
        ({"dry_run": "yes"}, "dry_run=yes is neither true nor false"),
    ],
)
def test_mistakes_are_one_line(cells, capsys, change, message):
    options = {"cell": str(cells[0].folder), "repo": "me/sums", "license": "mit", "dry_run": "true"} | change
    with pytest.raises(SystemExit) as ended:
        main(["push", options.pop("cell"), *(f"{key}={value}" for key, value in options.items() if value)])
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and message in line


@pytest.mark.parametrize("data", ["rows/part.csv", "rows/part.jsonl.gz", "rows/part.arrow", "rows/part.tsv.zst"])
def test_what_was_local_where_it_was_trained_is_no_hub_id(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    Path("ckpts/x").mkdir(parents=True)
    config = Config(
        names=Names(model="x", dataset="part", loss="sft", eval="paper"),
        machine=MachineConfig(results=str(tmp_path / "results")),
        optimizer=OptimizerConfig(_target_="torch.optim.AdamW", lr=5e-5),
        loss={"_target_": "losslab.objectives.sft.SFT"},
    )
    config.model.path, config.dataset.path = "ckpts/x", data
    cell = Cell.of(config)
    cell.declare(config)
    monkeypatch.chdir("/")
    cell.declare(config)  # where the folder is not there, the record still knows of it
    assert not model_card.on_hub(cell, "model") and not model_card.on_hub(cell, "dataset")
    assert [model_card.public(cell)[group]["path"] for group in ("model", "dataset")] == ["x", Path(data).name]
