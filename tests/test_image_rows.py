"""From rows with images to examples: where images stand, what is trained, what is kept, and what makes a row broken."""

import base64
import io
import json
import os
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pictures
import pytest
from families import chatml
from PIL import Image
from transformers import AutoConfig

from losslab.config.schema import DatasetConfig, ModelConfig, TrainConfig
from losslab.data.batches import collate
from losslab.data.examples import Examples, collect, prepare, tokenise
from losslab.data.held_out_rows import shared
from losslab.data.image_inputs import ImageInputs
from losslab.data.mismatched import mismatched
from losslab.data.preview import repeated
from losslab.data.rows import asked, read
from losslab.data.tokenise import Tokeniser
from losslab.models.processors import image_inputs

IMAGE = "<|vision_start|>{}<|vision_end|>"
PAD = "<|image_pad|>"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> ImageInputs:
    """The processor of a tiny Qwen2.5-VL: an image of 40 by 24 pixels has 5 x 3 tokens."""
    folder = tmp_path_factory.mktemp("qwen")
    pictures.write_processor("qwen2_5_vl", folder)
    return image_inputs(ModelConfig(path=str(folder)))


@pytest.fixture
def data(tmp_path):
    """A folder with two images, and a function from rows to its examples."""
    for name in "ab":
        pictures.draw(name).save(tmp_path / f"{name}.png")

    def examples(rows, inputs, model=None, train=None, **dataset) -> Examples:
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        about = DatasetConfig(path=str(file), **dataset)
        return tokenise(
            read(about), train or TrainConfig(),
            Tokeniser(model or ModelConfig(), about, pictures.tokenizer("qwen2_5_vl"), inputs),
        )  # fmt: skip

    return examples


def shown(examples: Examples, i: int = 0) -> tuple[str, str]:
    """The text of an example, and what of it is trained; images of 15 tokens as one."""
    known = pictures.tokenizer("qwen2_5_vl")
    ids = examples.tokens[examples.offsets[i] : examples.offsets[i + 1]]
    return known.decode(ids).replace(PAD * 15, PAD), known.decode(ids[examples.is_trained(i)])


def turn(role, text):
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


ASKED = turn("user", "Add {0} and {0}.").format(IMAGE.format(PAD))
TAIL = "<|im_start|>assistant\n3<|im_end|>"


def test_every_layout_has_its_images_in_their_places(data, inputs, tmp_path):
    text, parts = "Add <image> and <image>.", [{"type": "text", "text": "Add "}, {"type": "image", "image": "a.png"}]
    parts += [{"type": "text", "text": " and "}, {"type": "image", "path": "b.png"}, {"type": "text", "text": "."}]
    empty = [{"type": "image"} if part["type"] == "image" else part for part in parts]
    url = f"data:image/png;base64,{base64.b64encode((tmp_path / 'b.png').read_bytes()).decode()}"
    of_openai = [*parts[:3], {"type": "image_url", "image_url": {"url": url}}, parts[4]]
    answer, pair = {"role": "assistant", "content": "3"}, ["a.png", "b.png"]
    for row in (
        {"question": text, "answer": "3", "images": pair},
        {"messages": [{"role": "user", "content": text}, answer], "images": pair},
        {"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "3"}], "images": pair},
        {"messages": [{"role": "user", "content": parts}, answer]},
        {"messages": [{"role": "user", "content": empty}, answer], "images": pair},
        {"messages": [{"role": "user", "content": of_openai}, answer]},
    ):
        examples = data([row], inputs)
        assert shown(examples) == (ASKED + TAIL, "3<|im_end|>"), row
        assert examples.report["images"] == 2 and examples.report["image_tokens"] == 30
        first, second = (np.asarray(Image.open(io.BytesIO(image))) for image in examples.images.of_example(0))
        np.testing.assert_array_equal(first, np.asarray(pictures.draw("a")))
        np.testing.assert_array_equal(second, np.asarray(pictures.draw("b")))
    examples = data([{"question": "Read.", "answer": "a", "image": "a.png"}], inputs)
    assert shown(examples)[0].startswith(turn("user", IMAGE.format(PAD) + "Read."))
    turns = [{"role": "user", "content": "<image>?"}, answer, {"role": "user", "content": "And <image>?"}, answer]
    examples = data([{"messages": turns, "images": pair}], inputs)
    assert shown(examples)[1] == "3<|im_end|>" * 2
    assert len(data([{"messages": turns, "images": pair}], inputs, turns="each").images.of_example(0)) == 1


def test_the_first_image_may_come_late(data, inputs, tmp_path):
    rows = [{"question": "Read.", "answer": "a", "image": empty} for empty in ("", None, [], None) * 25]
    examples = data([*rows, {"question": "Read.", "answer": "b", "image": "b.png"}], inputs)
    assert examples.report["images"] == 1 and not any(map(examples.images.of_example, range(100)))
    assert examples.images.of_example(100) == [(tmp_path / "b.png").read_bytes()]


def test_texts_that_may_be_images_are_not_left_out(data, inputs):
    row = {"question": "Read.", "answer": "a"}
    url = "http://h/x.jpg?s=1"
    for value in (url, [url]):
        with pytest.raises(ValueError, match=r"has texts in `image` .*x.jpg.*: set dataset.images_column=image if"):
            data([row, row | {"image": value}], inputs)
    with pytest.raises(ValueError, match="has an image at the URL http://h/x.jpg"):
        data([row | {"image": url}], inputs, images_column="image")
    assert data([row | {"image": 3}], inputs).images is None
    assert data([row | {"image": "of a", "images": ["a.png"]}], inputs).report["images"] == 1


def test_images_of_parquet_are_read_as_the_library_writes_them(inputs, tmp_path):
    from datasets import Dataset, Features, List, Value
    from datasets import Image as Feature

    features = Features({"problem": Value("string"), "solution": Value("string"), "images": List(Feature())})
    rows = [{"problem": "Read.", "solution": "a", "images": [pictures.draw("a")]}]
    rows += [{"problem": "And this?", "solution": "none", "images": []}]
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    about = DatasetConfig(path=str(tmp_path / "rows.parquet"))
    examples = tokenise(
        read(about), TrainConfig(), Tokeniser(ModelConfig(), about, pictures.tokenizer("qwen2_5_vl"), inputs)
    )
    (image,) = examples.images.of_example(0)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(image))), np.asarray(pictures.draw("a")))
    assert examples.images.of_example(1) == []
    assert examples.report["image_tokens"] == 15


def test_a_broken_image_is_a_broken_row_and_is_named(data, inputs, tmp_path):
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    row = {"question": "Read.", "answer": "a"}
    rows = [row | {"image": "a.png"}, row | {"image": "cut.png"}, row | {"image": "none.png"}]
    examples = data(rows, inputs, max_broken=0.9)
    assert (examples.report["broken"], examples.report["examples"]) == (2, 1)
    with pytest.raises(ValueError, match=r"rows.jsonl:2 has an image .*cut.png that cannot be decoded") as caught:
        data(rows, inputs)
    assert "rows.jsonl:3 has an image" in str(caught.value) and "none.png that is not there" in str(caught.value)
    for wrong, reason in (
        ({"image": "https://example.org/a.png"}, "which is not loaded: download it"),
        ({"question": "<image><image>", "image": "a.png"}, "has 1 images for 2 places"),
        ({"question": f"What is {PAD}?", "image": "a.png"}, f"the chat template writes 2 times .*{'image_pad'}"),
    ):
        with pytest.raises(ValueError, match=reason):
            data([row | wrong], inputs)


def test_images_are_refused_where_they_would_be_left_out(data, inputs, tmp_path):
    row = {"question": "Read.", "answer": "a", "image": "a.png"}
    with pytest.raises(ValueError, match="has images, and model.path=text reads none: choose a vision-language model"):
        data([row], None, ModelConfig(path="text"))
    with pytest.raises(ValueError, match="has images, which model.train_prompt as a text does not hold"):
        data([row], inputs, ModelConfig(train_prompt="{problem}"))
    with pytest.raises(ValueError, match="has images in `image`, and what asks its questions asks them as texts"):
        list(asked(DatasetConfig(path=str(tmp_path / "rows.jsonl"))))
    said = [{"role": "user", "content": "?"}, {"role": "assistant", "content": [{"type": "image", "image": "a.png"}]}]
    with pytest.raises(ValueError, match="has an image in a turn of the assistant in `messages`"):
        data([{"messages": said}], inputs)
    template = chatml().chat_template  # of a model for texts alone: an image of a message would be printed as a list
    other = ImageInputs(pictures.with_template(inputs.processor, template))
    with pytest.raises(ValueError, match="leaves out|writes 0 times"):
        data([row], other)


def test_arguments_of_the_processor_decide_how_many_tokens_an_image_has(data, inputs):
    row = {"question": "Read.", "answer": "a", "image": "a.png"}
    smaller = ImageInputs(inputs.processor, {"max_pixels": 8 * 8 * 6})
    assert data([row], smaller).report["image_tokens"] == 3 and smaller.key != inputs.key  # 24 by 8 pixels


def test_a_row_whose_image_does_not_fit_is_left_out(data, inputs):
    row = {"question": "Read.", "answer": "a" * 50, "image": "a.png"}
    length = int(data([row], inputs).lengths[0])
    assert data([row], inputs, train=TrainConfig(max_length=length - 1, overlong="truncate")).report["truncated"] == 1
    with pytest.raises(ValueError, match="no row of .* fits"):
        data([row], inputs, train=TrainConfig(max_length=20, overlong="truncate"))


def test_what_is_kept_is_found_again_until_an_image_changes(inputs, tmp_path):
    rows = pictures.write_rows(tmp_path / "data")
    tokenizer = pictures.tokenizer("qwen2_5_vl")
    tokeniser = Tokeniser(ModelConfig(), DatasetConfig(path=str(rows)), tokenizer, inputs)
    folder = prepare(tokeniser, TrainConfig(), tmp_path)
    before = (folder / "images/images.bin").stat().st_mtime_ns
    assert prepare(tokeniser, TrainConfig(), tmp_path) == folder
    assert (folder / "images/images.bin").stat().st_mtime_ns == before
    os.utime(rows.parent / "0-0.png", ns=(1, 1))
    with pytest.raises(ValueError, match=r"the image .*0-0.png has changed since it was tokenised: remove"):
        prepare(tokeniser, TrainConfig(), tmp_path)


def test_the_same_rows_in_another_folder_have_its_images(inputs, tmp_path):
    kept = []
    for name in "ab":
        (tmp_path / name).mkdir()
        pictures.draw(name).save(tmp_path / name / "0.png")
        (tmp_path / name / "rows.jsonl").write_text('{"question": "Read.", "answer": "a", "image": "0.png"}\n')
        about = DatasetConfig(path=str(tmp_path / name / "rows.jsonl"))
        tokeniser = Tokeniser(ModelConfig(), about, pictures.tokenizer("qwen2_5_vl"), inputs)
        kept += Examples.load(prepare(tokeniser, TrainConfig(), tmp_path)).images.of_example(0)
    assert kept == [(tmp_path / name / "0.png").read_bytes() for name in "ab"]


def test_examples_with_the_same_tokens_and_other_images_are_different(data, inputs, tmp_path):
    """b2 is a copy of b: of the first four rows two are the same, and of the others one is trained and one asked."""
    (tmp_path / "b2.png").write_bytes((tmp_path / "b.png").read_bytes())
    rows = [{"question": "Read.", "answer": "a", "image": f"{name}.png"} for name in ("a", "b", "b2")]
    others = [rows[0], rows[1] | {"answer": "b"}, rows[0] | {"image": "c.png"}]
    pictures.draw("c").save(tmp_path / "c.png")
    trained, held_out = data(rows, inputs), data(others, inputs)
    assert len({ids.tobytes() for ids in np.split(trained.tokens, trained.offsets[1:-1])}) == 1
    assert shared(trained, held_out) == (1, 2)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    about = DatasetConfig(path=str(tmp_path / "rows.jsonl"))
    tokeniser = Tokeniser(ModelConfig(), about, pictures.tokenizer("qwen2_5_vl"), inputs)
    assert repeated(collect(read(about), TrainConfig(), tokeniser)) == (1, 2)
    answers = [{"question": "Read.", "answer": name, "image": f"{name}.png"} for name in "ab"]
    swapped = mismatched(data(answers, inputs))
    assert [shown(swapped, i)[1] for i in (0, 1)] == ["b<|im_end|>", "a<|im_end|>"]
    rewarded = [row | {"reward": reward} for row, reward in zip([*rows, rows[0]], (1, 0, 1, 0), strict=True)]
    assert data(rewarded, inputs, reward_column="reward").rewards[:, 1].tolist() == [0.5] * 4


def test_a_batch_has_the_images_of_its_sequences_in_their_order(inputs, tmp_path):
    rows = pictures.write_rows(tmp_path / "data")
    tokenizer = pictures.tokenizer("qwen2_5_vl")
    tokeniser = Tokeniser(ModelConfig(), DatasetConfig(path=str(rows)), tokenizer, inputs)
    examples = Examples.load(prepare(tokeniser, TrainConfig(), tmp_path))
    batch = collate(replace(examples, image_inputs=inputs), np.array([1, 2, 0]))
    (grid,) = [batch.images.arrays["image_grid_thw"]]
    assert batch.images.counts["image_grid_thw"] == [2, 0, 1]
    assert grid.prod(1).tolist() == [
        len(part) for part in batch.images.arrays["pixel_values"].split(grid.prod(1).tolist())
    ]
    assert int(batch.images.types.sum()) == int(grid.prod(1).sum()) // 4
    assert batch.images.of(1, 2) == {}
    assert len(batch.images.of(2, 3)["pixel_values"]) == int(grid[2].prod())
    assert not set(batch.targets.tolist()) & set(inputs.processor.image_token_ids)


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="says what is missing without it")
def test_a_processor_that_needs_torchvision_says_so(tmp_path):
    AutoConfig.for_model("gemma4").save_pretrained(tmp_path)
    pictures.tokenizer("gemma3").save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text('{"processor_class": "Gemma4Processor"}')
    with pytest.raises(ValueError, match="^no processor can be loaded from model.path=.*need torchvision: install it$"):
        image_inputs(ModelConfig(path=str(tmp_path)))
