"""The embedded world's pictures: drawn by hand, and read as many tokens as they have characters."""

import hashlib
import io
import json
import re

import numpy as np
import pytest
import yaml
from conftest import ROOT
from hydra import compose, initialize_config_dir
from PIL import Image

from losslab.commands import toy_suite
from losslab.composition.compose import read
from losslab.config.benchmark import BenchmarkConfig
from losslab.config.paths import CONF
from losslab.config.schema import EMBEDDED_VISION, Config, ModelConfig, TrainConfig
from losslab.data import toy_pictures, toy_task
from losslab.data.examples import Examples, prepare
from losslab.data.table import load
from losslab.data.tokenise import Tokeniser
from losslab.evaluation import benchmarks
from losslab.evaluation.evaluate import check
from losslab.files.content import TOY_TASK
from losslab.models.loading import load_config, load_tokenizer
from losslab.models.processors import image_inputs, write_processor
from losslab.planning.architecture import count_parameters, describe
from losslab.records.identity import identity

DRAWN = """\
...##....###...........###......##.
.####...##.##....#....##.##....###.
...##......##....#.......##...#.##.
...##.....##...#####...###...##.##.
...##....##......#.......##..######
...##...##.##....#....##.##.....##.
.######.#####..........###......##.
"""


def composed(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", list(overrides), return_hydra_config=True)
        return read(cfg, cfg.hydra.runtime.choices)


def dots(picture: bytes) -> str:
    """A picture as text, a character for each dot of 2 by 2 pixels."""
    pixels = np.asarray(Image.open(io.BytesIO(picture)))
    assert (pixels == pixels[::2, ::2].repeat(2, 0).repeat(2, 1)).all()
    return "".join("".join(".#"[not white] for white in line) + "\n" for line in pixels[::2, ::2])


def test_a_sum_is_drawn():
    assert dots(toy_pictures.picture("12+34")) == DRAWN
    assert len({toy_pictures.picture(f"{a}+{b}") for a in range(10, 100) for b in range(10, 100)}) == 8100


def test_demonstrations_have_the_share_of_wrong_steps_and_their_own_picture():
    rows = toy_pictures.demonstrations(2500, 1)
    assert {row["problem"] for row in rows} == {"=?", "Add."}
    assert {len(row["solution"].splitlines()) for row in rows} == {3}  # two steps and the box
    right = [row["solution"].endswith(f"\\boxed{{{row['answer']}}}") for row in rows]
    assert np.mean(right) == pytest.approx(0.9**2, abs=0.02)
    for row in rows[:200]:
        (x, y), (z, w) = (re.findall(r"(\d)\+(\d)\+", line)[0] for line in row["solution"].splitlines()[:2])
        assert row["image"] == toy_pictures.picture(f"{z}{x}+{w}{y}")
        assert int(row["answer"]) == int(z + x) + int(w + y)


def test_the_corpus_has_styles_and_benchmarks_are_held_out():
    corpus = toy_pictures.corpus(2000, 1)
    assert {row["problem"] for row in corpus} == {"=?", "Add.", "Sum?", "What is it?"}
    boxed = np.mean([toy_task.BOXED in row["solution"] for row in corpus])
    assert boxed == pytest.approx(0.40 + 0.25, abs=0.03)
    seen = {row["image"] for row in [*corpus, *toy_pictures.demonstrations(2000, 1)]}
    for name in toy_pictures.PICTURES:
        shown = {row["image"] for row in toy_pictures.problems(name)}
        assert len(shown) == toy_task.PROBLEMS and not shown & seen


GOLDEN = [("Add.", "9+1+0=10\n7+1+1=9\n\\boxed{90}", "90"), ("=?", "0+5+0=5\n7+3+0=10\n\\boxed{105}", "105")]


def test_golden_rows():
    """A change of these changes every number that was measured with them, and takes another files.content.TOY_TASK."""
    rows = toy_pictures.demonstrations(2, 0)
    assert [(row["problem"], row["solution"], row["answer"]) for row in rows] == GOLDEN
    assert [row["image"] for row in rows] == [toy_pictures.picture("79+11"), toy_pictures.picture("70+35")]
    made = [
        [make(200, seed) for make in (toy_pictures.corpus, toy_pictures.demonstrations) for seed in (0, 1)],
        [toy_pictures.problems(name) for name in toy_pictures.PICTURES],
    ]
    digest = hashlib.sha256(json.dumps(made, default=bytes.hex).encode()).hexdigest()
    assert (TOY_TASK[:16], digest[:16]) == ("9c3ffb0277d14bc4", "9875d28c211481b7")


def test_a_picture_is_five_tokens_none_of_them_trained(tmp_path):
    config = composed("experiment=toy_suite/table4", "loss=sft", "dataset.rows=64")
    tokenizer, images = load_tokenizer(config.model), image_inputs(config.model)
    tokeniser = Tokeniser(config.model, config.dataset, tokenizer, images)
    examples = Examples.load(prepare(tokeniser, TrainConfig(max_length=256), tmp_path))
    rows = toy_pictures.demonstrations(64, 0)
    assert (examples.report["images"], examples.report["image_tokens"]) == (64, 5 * 64)
    first = examples.tokens[: examples.offsets[1]].tolist()
    written = f"<|user|><|vision_start|>{'<|image_pad|>' * 5}<|vision_end|>Add.<|end|><|assistant|>"
    assert tokenizer.decode(first) == written + rows[0]["solution"] + "<|end|>"
    assert tokenizer.decode(first[: examples.prompts[0]]) == written
    assert examples.report["answer_tokens"] == sum(len(tokenizer(row["solution"])["input_ids"]) + 1 for row in rows)


def test_the_model_is_a_qwen2_5_vl_that_its_file_describes(tmp_path):
    config = composed("experiment=toy_suite/table4")
    made = load_config(config.model)
    assert made.model_type == "qwen2_5_vl" and made.image_token_id == 104
    facts = yaml.safe_load((ROOT / "conf/model/tiny_vision.yaml").read_text())["architecture"]
    for part in ("text_config", "vision_config"):
        assert facts[part] == {key: getattr(getattr(made, part), key) for key in facts[part]}
    assert count_parameters(describe(config)) == count_parameters(made) == 296_896
    load_config(config.model).save_pretrained(tmp_path)
    load_tokenizer(config.model).save_pretrained(tmp_path)
    write_processor(config.model, tmp_path)  # as export does
    kept, there = image_inputs(ModelConfig(path=str(tmp_path))), image_inputs(config.model)
    assert kept is not None and there is not None and kept.template == there.template == toy_pictures.CHAT_TEMPLATE
    picture = toy_pictures.picture("12+34")
    (a,), (b,) = kept.arrays([picture]), there.arrays([picture])
    assert a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)
    assert b["pixel_values"].shape == (5, 3 * 14 * 14)


def test_a_benchmark_shows_pictures_and_has_the_rules_of_the_sums():
    config = composed("experiment=toy_suite/table4", "loss=dft")
    assert set(config.benchmark) == set(toy_pictures.PICTURES) == {benchmark.name for benchmark in check(config)}
    about = BenchmarkConfig(path="embedded", question="question", images=["image"])
    benchmark = benchmarks.load("tiny_picture", about)
    row, problem = toy_pictures.problems("tiny_picture")[0], benchmark.problems[0]
    assert (problem.question, problem.images, problem.gold) == ("=?", (row["image"],), row["answer"])
    assert benchmark.rules == "general"  # of mathematics: what the last box holds
    with pytest.raises(ValueError, match="^tiny reads no images, which tiny_picture shows: set model=tiny_vision$"):
        check(composed("model=tiny", "dataset=embedded", "benchmark=[tiny_picture]"))


def test_the_twin_of_table_4_has_its_model_rows_and_seeds():
    config = composed("experiment=toy_suite/table4", "loss=dft")
    assert (config.model.path, config.model.pretrain_split) == (EMBEDDED_VISION, "picture_corpus")
    assert next(load(config.dataset).rows())["solution"] == GOLDEN[0][1]
    assert config.train.freeze_vision and config.machine.engine == "transformers"
    assert identity(config) != identity(composed("experiment=toy_suite/table4", "loss=dft", "model=tiny"))
    for name in toy_suite.TWINS:
        file = yaml.safe_load((ROOT / f"experiments/toy_suite/{name}.yaml").read_text())
        seeds = file["hydra"]["sweeper"]["params"]["seed"]
        assert seeds == toy_suite.FEWER_SEEDS.get(name, toy_suite.SEEDS), name
