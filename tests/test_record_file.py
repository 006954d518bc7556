"""A record that somebody else wrote names values and runs no code."""

import sys

import pytest
import yaml
from omegaconf import OmegaConf

from losslab.cells.run import tidy
from losslab.composition.compose import recorded_config
from losslab.composition.record_file import read_record, refuse_unknown_objective
from losslab.config.schema import Config
from losslab.hub.model_card import objective
from losslab.records.record import Cell


@pytest.fixture
def record(tmp_path):
    content = yaml.safe_load(OmegaConf.to_yaml(OmegaConf.structured(Config())))
    content |= {"loss": {"_target_": "losslab.objectives.dft.DFT"}}
    for group in ("model", "dataset"):
        content[group]["path"] = "embedded"
    content["optimizer"] |= {"_target_": "torch.optim.AdamW", "lr": 1e-4}
    content["names"] = {"model": "tiny", "dataset": "rows", "loss": "dft", "eval": "paper", "method": None}

    def write(**changes: object):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(content | changes))
        return tmp_path / "config.yaml"

    return write


@pytest.fixture
def hostile_module(tmp_path, monkeypatch):
    """A folder of results is a package to Python when the folder above it is on the path, as the project's is."""
    folder = tmp_path / "results/cells/tiny-rows-dft"
    folder.mkdir(parents=True)
    (folder / "payload.py").write_text(f"open({str(tmp_path / 'code-was-run')!r}, 'w')\nclass X:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "results.cells.tiny-rows-dft.payload.X"
    assert not (tmp_path / "code-was-run").exists()
    assert not any(name.startswith("results") for name in sys.modules)


def test_an_objective_that_conf_does_not_name_is_not_imported(record, hostile_module):
    file = record(loss={"_target_": hostile_module})
    with pytest.raises(
        ValueError, match="payload.X', which is in no file of conf/loss.*: add such a file if you trust"
    ):
        recorded_config(file, [])
    card = objective({"loss": {"_target_": hostile_module, "floor": 0.1}})
    assert f"The class {hostile_module}, which is not part of losslab." in card


@pytest.fixture
def own_conf(tmp_path, monkeypatch):
    """A folder with a user's YAML files: an objective of a module of theirs, and a benchmark."""
    for group, name, content in (
        ("loss", "mine", {"_target_": "own_objective_of_a_test.Mine"}),
        ("benchmark", "sums", {"sums": {"path": "sums.jsonl"}}),
    ):
        file = tmp_path / "conf" / group / f"{name}.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(yaml.safe_dump(content))
    module = "from losslab.objectives.sft import SFT\n\n\nclass Mine(SFT):\n    pass\n"
    (tmp_path / "own_objective_of_a_test.py").write_text(module)
    monkeypatch.syspath_prepend(str(tmp_path))
    return f"hydra.searchpath=[{tmp_path / 'conf'}]"


def test_a_cell_of_an_own_objective_is_scored_with_the_folder_that_names_it(record, own_conf):
    file = record(loss={"_target_": "own_objective_of_a_test.Mine"})
    with pytest.raises(ValueError, match="hydra.searchpath: add such a file if you trust its code$"):
        recorded_config(file, ["eval.samples=2"])
    config = recorded_config(file, [own_conf, "benchmark=[sums]"])
    assert type(config.objective).__name__ == "Mine"
    assert [about.path for about in config.benchmark.values()] == ["sums.jsonl"]
    # The folder is no key of the cell, and other keys of Hydra stay refused.
    assert read_record(file).loss["_target_"] == "own_objective_of_a_test.Mine"
    with pytest.raises(ValueError, match="leave hydra.sweep.dir out"):
        recorded_config(file, [own_conf, "hydra.sweep.dir=x"])


def test_what_a_kill_left_of_an_own_objective_is_tidied(record, hostile_module, tmp_path):
    """The number of steps to keep is read from the record, and the class that it names is not loaded."""
    record(loss={"_target_": hostile_module}, machine={"keep_every": 2})
    for name in ("model", *(f"checkpoints/step-{step:08d}" for step in (1, 2))):
        (tmp_path / name).mkdir(parents=True)
    tidy(Cell(tmp_path, "identity"))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_a_record_does_not_decide_about_trust(record):
    model = yaml.safe_load(record().read_text())["model"]
    file = record(model=model | {"trust_remote_code": True})
    assert read_record(file).model.trust_remote_code is False
    assert recorded_config(file, []).model.trust_remote_code is False
    assert recorded_config(file, ["model.trust_remote_code=true"]).model.trust_remote_code is True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not the configuration of a cell"),
        ("[]", "is not the configuration of a cell"),
        ("{a: 1}", "is not the configuration of a cell"),
        ("{model: {}, loss: {}, names: {}, seed: 0 b=1, machine: {}}", "is not the configuration of a cell"),
        ("a: [", r"cannot be read \(ParserError\)"),
        ("!!python/object/apply:os.system [true]", r"cannot be read \(ConstructorError\)"),
        ("[" * 5000, r"cannot be read \(RecursionError\)"),
        ("\x00", r"cannot be read \(ReaderError\)"),
    ],
)
def test_what_is_no_record_is_one_sentence(tmp_path, text, message):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_record(tmp_path / "config.yaml")


def test_the_environment_is_not_part_of_a_record(record, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    with pytest.raises(ValueError, match=r"contains the interpolation '\$\{oc.env:HF_TOKEN\}'"):
        read_record(record(names={"model": "${oc.env:HF_TOKEN}"}))


@pytest.mark.parametrize("loss", [None, [], "text", {}, {"_target_": 3}, {"_target_": []}, {"_target_": "os.system"}])
def test_what_is_no_objective(loss):
    with pytest.raises(ValueError, match="^record names the objective"):
        refuse_unknown_objective(loss, "record")


@pytest.mark.parametrize("benchmark", [None, [], {"math500": None}])
def test_a_record_without_benchmarks_is_refused_as_any_that_is_not_whole(record, benchmark):
    with pytest.raises(ValueError, match="restore it or remove its cell$"):
        read_record(record(benchmark=benchmark))
