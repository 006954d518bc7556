"""Images of rows: whatever stands for one becomes the same RGB image, and what does not is a sentence."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from losslab.data.images import image_part, images_of, is_image, open_image, parts, shortened, text_part
from losslab.data.messages import Unusable

PIXELS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 20, 30]]], dtype=np.uint8)


def encoded(image, form="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def test_every_form_of_a_value_is_the_same_image(tmp_path):
    image = Image.fromarray(PIXELS)
    data = encoded(image)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.png").write_bytes(data)
    forms = [
        image, data, "pictures/a.png", str(tmp_path / "pictures/a.png"), {"bytes": data, "path": None},
        {"bytes": data, "path": "elsewhere.png"}, {"bytes": None, "path": "pictures/a.png"},
        {"path": "pictures/a.png"}, f"data:image/png;base64,{base64.b64encode(data).decode()}",
    ]  # fmt: skip
    for value in forms:
        opened = open_image(value, tmp_path)
        assert opened.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(opened), PIXELS)
    assert [is_image(value) for value in forms] == [True, True, False, False, True, True, True, True, False]


def test_transparent_is_white_grey_is_grey_and_a_turned_photograph_upright(tmp_path):
    alpha = Image.fromarray(np.array([[[0, 0, 0, 0], [0, 0, 0, 255]]], dtype=np.uint8))  # a line on a clear ground
    np.testing.assert_array_equal(np.asarray(open_image(alpha, tmp_path)), [[[255] * 3, [0] * 3]])
    np.testing.assert_array_equal(np.asarray(open_image(Image.new("L", (1, 1), 7), tmp_path)), [[[7] * 3]])
    turned = Image.new("RGB", (2, 1))
    exif = turned.getexif()
    exif[0x0112] = 6  # a quarter turn
    assert open_image(encoded(turned, exif=exif), tmp_path).size == (1, 2)


@pytest.mark.parametrize(
    "value, sentence",
    [
        ("https://example.org/a.png", "has an image at the URL https://example.org/a.png, which is not loaded"),
        ("missing.png", "has an image missing.png that is not there"),
        ("text.png", "has an image text.png that cannot be decoded (it is of no known format)"),
        ("cut.png", "has an image cut.png that cannot be decoded"),
        (b"", "has an image of its row that cannot be decoded (it is of no known format)"),
        ("data:image/png;base64,!", "has an image data:image/png;base64,… that is not base64"),
        (None, "has nothing in the place of an image"),
        ("", "has nothing in the place of an image"),
        ({"bytes": None, "path": None}, "has nothing in the place of an image"),
        (3, "has a int in the place of an image"),
        (Image.new("I;16", (1, 1)), "has an image of its row of mode I;16: save it with 8 bits a channel"),
    ],
)
def test_what_is_no_image_is_a_sentence(tmp_path, value, sentence):
    (tmp_path / "text.png").write_text("no picture")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (tmp_path / "cut.png").write_bytes(encoded(Image.fromarray(noise))[:6000])
    with pytest.raises(Unusable) as caught:
        open_image(value, tmp_path)
    assert str(caught.value).startswith(sentence)


def test_a_shown_text_has_the_tokens_of_an_image_once():
    assert shortened("a<|v|>" + "<|pad|>" * 752 + "<|e|> <br><br>") == "a<|v|><|pad|>×752<|e|> <br><br>"


def test_images_take_the_places_of_their_placeholders_or_come_first():
    assert parts("How many?", ["a", "b"]) == [image_part("a"), image_part("b"), text_part("How many?")]
    assert parts("<image>\nand <image>?", ["a", "b"]) == [
        image_part("a"), text_part("\nand "), image_part("b"), text_part("?"),
    ]  # fmt: skip
    with pytest.raises(Unusable, match="has 1 images for 2 <image> in its text"):
        parts("<image><image>", ["a"])
    messages = [{"role": "user", "content": parts("<image> or <image>", ["a", "b"])}, {"role": "user", "content": "c"}]
    assert images_of(messages) == ["a", "b"]
