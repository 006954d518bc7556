"""Table 4 on tiny random models of two architectures: a step of training, and a batch of its benchmarks scored."""

import json
import math
from pathlib import Path
from typing import Any

import pictures
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from losslab.cells.run import run
from losslab.composition.compose import read
from losslab.config.paths import CONF
from losslab.records.record import Cell

ROWS = 4
ANSWER = "It is B."
MODELS = {  # the file of its configuration, and the tokens of an image of 40 by 24 pixels
    "qwen2_5_vl": ("qwen2.5-vl-3b", 15),  # 5 by 3 of 8 by 8 pixels
    "llava": ("custom", 4),  # 2 by 2 of 14 by 14, of any image
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Rows with the columns of WeThink, and problems with those of the benchmarks, all of which show a drawn sum."""
    folder = tmp_path_factory.mktemp("table4")
    for name in ("wethink", "benchmarks"):
        (folder / name).mkdir()
        for i in range(ROWS):
            pictures.draw(f"{i}+{i}").save(folder / name / f"{i}.png")

    def keep(file: str, rows: list[dict[str, Any]]) -> None:
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))

    rows = [{"problem": f"<image>\nHow much is {i}?", "refined_cot": ANSWER, "answer": "B"} for i in range(ROWS)]
    keep("wethink.jsonl", [row | {"image_path": f"{i}.png"} for i, row in enumerate(rows)])
    choices = {"question_for_eval": "How much?\nChoices:\nA:1\nB:2", "answer": "B", "question_type": "multi-choice"}
    asked = {"Text Dominant": "Reason. How much is 1+1?", "Vision Only": "Reason."}
    keep(
        "benchmarks/mathverse.jsonl",
        [
            choices | {"query_cot": q, "problem_index": "7", "problem_version": name, "image": "1.png"}
            for name, q in asked.items()
        ],
    )
    about = {"subject": "arithmetic", "level": 1, "options": [], "decoded_image": "2.png"}
    keep("benchmarks/mathvision.jsonl", [about | {"question": "<image1> How much?", "answer": "4"}])
    steps = [{"ID": "2steps_1", "key": f"2steps_{part}"} for part in ("1", "2", "multi")]
    about = {"question": "How much?", "option": "A. 1; B. 6", "answer": "B", "image_path": "3.png"}
    keep("benchmarks/wemath.jsonl", [about | step for step in steps])
    return folder


@pytest.mark.parametrize("family", MODELS)
def test_a_step_is_trained_and_a_batch_scored(place, family):
    before = pictures.write_checkpoint(family, place / family)
    model, tokens_of_image = MODELS[family]
    arguments = [
        "experiment=table4", "loss=dft", f"model={model}", f"model.path={before}",
        f"dataset.path={place}/wethink.jsonl", f"dataset.image_folder={place}/wethink", "train.max_steps=1",
        f"eval.data={place}/benchmarks", "benchmark.mathverse.rows=2", "benchmark.mathvision.rows=1",
        "benchmark.wemath.rows=3", "eval.max_new_tokens=4",
        f"machine.results={place}/results", "machine.device=cpu", "machine.threads=1", "tracker=none",
    ]  # fmt: skip
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", arguments, return_hydra_config=True)
        config = read(composed, composed.hydra.runtime.choices)
    run(config)
    cell = Cell.of(config)
    assert cell.state()["state"] == "done", cell.state()

    data = json.loads((cell.folder / "data.json").read_text())
    assert (data["images"], data["image_tokens"]) == (ROWS, ROWS * tokens_of_image)
    (step,) = [json.loads(line) for line in cell.metrics.read_text().splitlines()]
    assert step["answer_tokens"] == ROWS * (len(ANSWER) + 1) and step["gradient_norm"] > 0
    assert step["cross_entropy"] == pytest.approx(math.log(len(pictures.tokenizer(family))), rel=0.1)
    weights, trained = (load_file(folder / "model.safetensors") for folder in (before, cell.model))
    assert {k: (v.shape, v.dtype) for k, v in trained.items()} == {k: (v.shape, v.dtype) for k, v in weights.items()}
    changed = {name for name in weights if not torch.equal(trained[name], weights[name])}
    assert changed and not [name for name in changed if "vis" in name or "projector" in name]  # these are not trained

    scores = json.loads((cell.scores(config) / "scores.json").read_text())
    assert (scores["engine"], scores["generation"]["samples"]) == ("transformers", 6)
    about = scores["benchmarks"]
    assert {name: part["problems"] for name, part in about.items()} == {"mathverse": 2, "mathvision": 1, "wemath": 1}
    assert set(about["mathverse"]["breakdown"]["problem_version"]) == {"Text Dominant", "Vision Only"}
    assert about["mathverse"]["originals"] == ["MathVerse/7"] * 2 and "originals" not in about["mathvision"]
    assert sum(part["too_long"] for part in about.values()) == 0 and "strict" in about["wemath"]["mastery"]
    protocol = yaml.safe_load((cell.scores(config) / "protocol.yaml").read_text())
    assert protocol["temperature"] == 0
    assert protocol.get("image_arguments") == ({"max_pixels": 768 * 768} if model == "qwen2.5-vl-3b" else None)
    shown = pictures.PLACEHOLDERS.get(family, pictures.QWEN)
    for name, asked in (("mathverse", "Reason. How much is 1+1?"), ("mathvision", "Solve"), ("wemath", "Here is a")):
        record = json.loads((cell.scores(config) / f"{name}.jsonl").read_text().splitlines()[0])
        assert record["prompt"].startswith(f"<|im_start|>user\n{shown}{asked}") and len(record["thumbnails"]) == 1
