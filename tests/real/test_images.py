import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from factory.errors import DataError
from factory.real.images import (
    decode,
    decode_deep,
    decode_mask,
    encode_png,
    encode_pnm,
    greatest_value,
    square,
    square_mask,
)
from tests.real.builders import encoded, pixels, png16, tiff16

RAMP = np.arange(0, 240, 2, dtype=np.uint8).reshape(10, 12)


def test_rgb_png_is_returned_unchanged():
    assert (np.asarray(decode(encoded(pixels(0)), name="x")) == pixels(0)).all()


def test_exif_rotation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate 270 degrees to stand upright
    data = encoded(pixels(0, width=12, height=10), exif=exif)
    assert (np.asarray(decode(data, name="x")) == np.rot90(pixels(0), -1)).all()


def test_transparency_is_laid_over_white():
    rgba = np.dstack([pixels(0), np.zeros((10, 12), np.uint8)])
    rgba[0, 0, 3] = 255
    out = np.asarray(decode(encoded(rgba), name="x"))
    assert (out[0, 0] == pixels(0)[0, 0]).all()
    assert (out[1:] == 255).all()


def test_transparent_palette_colour_becomes_white():
    data = encoded(RAMP, mode="P", transparency=0)
    out = np.asarray(decode(data, name="x"))
    assert (out[0, 0] == 255).all()
    assert (out[5, 5] == RAMP[5, 5]).all()


def test_sixteen_bit_grey_keeps_its_high_byte():
    wide = RAMP.astype(np.uint16) * 256 + 17
    for kind in ("PNG", "TIFF"):
        out = np.asarray(decode(encoded(wide, kind), name="x"))
        assert (out == RAMP[..., None]).all()


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_integers_of_a_twelve_bit_camera_are_refused_not_blackened(kind):
    with pytest.raises(DataError, match=r"integers up to 4095 only: 12 bits.*Scale it"):
        decode(encoded(np.linspace(0, 4095, 120).reshape(10, 12).astype(kind), "TIFF"), name="x")
    assert not np.asarray(decode(encoded(np.zeros((4, 4), kind), "TIFF"), name="x")).any()


RAW = np.linspace(0, 1, 120).reshape(10, 12)
WIDE = {
    "grey png": lambda values: encoded(values, "PNG"),
    "grey tiff": lambda values: encoded(values, "TIFF"),
    "grey big-endian tiff": lambda values: tiff16(values[..., None], ">"),
    "colour png": lambda values: png16(np.stack([values, values // 2, values // 3], -1)),
    "colour png with alpha": lambda values: png16(
        np.stack([values, values // 2, values // 3, np.full_like(values, 65535)], -1)
    ),
    "colour tiff": lambda values: tiff16(np.stack([values, values // 2, values // 3], -1), "<"),
    "colour big-endian tiff": lambda values: tiff16(
        np.stack([values, values // 2, values // 3], -1), ">"
    ),
}


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("kind", WIDE)
def test_values_of_fewer_bits_in_sixteen_are_scaled_by_the_depth_of_the_set(kind, bits):
    top = 2**bits - 1
    values = (RAW * top).astype(np.uint16)
    data = WIDE[kind](values)
    assert greatest_value(data, name="x") == top
    found = decode_deep(data, name="x", bits=bits)
    assert np.abs(found[..., 0] - values / top * 255).max() <= 0.51
    if "colour" in kind:
        assert np.abs(found[..., 2] - (values // 3) / top * 255).max() <= 0.51


def test_a_picture_that_would_be_all_but_black_in_its_set_is_refused():
    data = encoded((RAW * 100).astype(np.uint16), "PNG")
    with pytest.raises(DataError, match=r"dim has values up to 100 where its set needs 12 bits"):
        decode_deep(data, name="dim", bits=12)
    assert not decode_deep(encoded(np.zeros((4, 4), np.uint16), "PNG"), name="x", bits=12).any()


def test_grey_with_transparency_is_read_in_sixteen_bits_and_refused_in_fewer():
    def with_alpha(top):
        values = (RAW * top).astype(np.uint16)
        return png16(np.stack([values, np.full_like(values, 65535)], -1))

    assert greatest_value(with_alpha(65535), name="x") > 65000
    assert np.asarray(decode(with_alpha(65535), name="x")).max() == 255
    with pytest.raises(DataError, match="grey with transparency of fewer than 16 bits"):
        greatest_value(with_alpha(4095), name="x")


def test_deep_tiff_with_white_as_zero_is_refused_and_a_shallow_one_is_upright():
    with pytest.raises(DataError, match="x stores white as 0"):
        greatest_value(encoded(RAMP.astype(np.uint16) * 256, "TIFF", tiffinfo={262: 0}), name="x")
    assert greatest_value(encoded(RAMP, "TIFF", tiffinfo={262: 0}), name="x") == 0


def test_deep_colours_in_planes_are_refused_not_scrambled():
    whole = tiff16(np.dstack([RAMP.astype(np.uint16) * 256] * 3), "<")
    in_planes = whole.replace(struct.pack("<HHIHH", 284, 3, 1, 1, 0),
                              struct.pack("<HHIHH", 284, 3, 1, 2, 0))  # fmt: skip
    assert greatest_value(whole, name="x") == 238 * 256
    with pytest.raises(DataError, match="x stores 16-bit colours plane by plane"):
        greatest_value(in_planes, name="x")


def test_pictures_of_eight_bits_have_no_depth_to_find():
    for data in (encoded(pixels(0)), encoded(RAMP, mode="P"), encoded(RAMP, "JPEG"), b"broken"):
        assert greatest_value(data, name="x") == 0


def test_float_tiff_in_0_1_is_scaled_and_any_other_is_refused():
    out = np.asarray(decode(encoded((RAMP / 255).astype(np.float32), "TIFF"), name="x"))
    assert (out == RAMP[..., None]).all()
    for value in (1.5, float("nan")):
        with pytest.raises(DataError, match="floats"):
            decode(encoded(np.full((4, 4), value, np.float32), "TIFF"), name="x")


@pytest.mark.parametrize("mode", ["L", "P", "LA", "1"])
def test_grey_and_palette_become_three_equal_channels(mode):
    out = np.asarray(decode(encoded(RAMP, mode=mode), name="x"))
    assert out.shape == (10, 12, 3)
    assert (out == out[..., :1]).all()
    if mode != "1":
        assert (out[..., 0] == RAMP).all()


def test_cmyk_jpeg_keeps_its_colours():
    flat = np.full((16, 16, 3), (200, 60, 90), np.uint8)
    out = np.asarray(decode(encoded(flat, "JPEG", mode="CMYK"), name="x"), int)
    assert np.abs(out - flat).max() <= 4


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM"])
def test_every_format_opens_and_a_truncated_one_names_its_file(kind):
    data = encoded(pixels(0, 64, 64), kind)
    assert decode(data, name="x").size == (64, 64)
    with pytest.raises(DataError, match="scan-7"):
        decode(data[: len(data) // 2], name="scan-7")


def test_empty_file_and_text_are_named():
    with pytest.raises(DataError, match=r"lost\.png is empty"):
        decode(b"", name="lost.png")
    with pytest.raises(DataError, match=r"notes\.png cannot be decoded .*no known picture format"):
        decode(b"not a picture", name="notes.png")


def test_decompression_bomb_is_refused_before_its_pixels_are_made():
    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    for side in (9_000, 10_000, 60_000):  # above our limit, Pillow's warning, Pillow's error
        head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b""))
        with pytest.raises(DataError, match=r"bomb\.png") as error:
            decode(bomb, name="bomb.png")
        assert "Tile" in error.value.remedy


def test_image_stack_is_refused():
    frames = [Image.fromarray(pixels(n)) for n in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "TIFF", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="3 frames"):
        decode(buffer.getvalue(), name="stack.tif")


@settings(max_examples=150, deadline=None)
@example(kind="colour big-endian tiff", flips=[(0.03515625, 1)])  # claims 16,777,226 rows
@given(
    kind=st.sampled_from(["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", *WIDE]),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damaged_bytes_decode_or_raise_our_error_only(kind, flips):
    wide = WIDE[kind]((RAW * 4095).astype(np.uint16)) if kind in WIDE else None
    data = bytearray(wide or encoded(pixels(0, 24, 24), kind))
    for where, value in flips:
        data[min(int(where * len(data)), len(data) - 1)] = value
    with suppress(DataError):
        if not greatest_value(bytes(data), name="x"):
            assert decode(bytes(data), name="x").mode == "RGB"
    with suppress(DataError):
        assert decode_deep(bytes(data), name="x", bits=12).shape[2] == 3


def test_mask_values_are_kept():
    grey = np.array([[0, 128], [255, 128]], np.uint8)
    assert (decode_mask(encoded(grey), name="m") == grey).all()
    assert (decode_mask(encoded(grey.astype(np.uint16)), name="m") == grey).all()
    assert (decode_mask(encoded(np.dstack([grey] * 3)), name="m") == grey).all()
    one_bit = decode_mask(encoded(grey > 0), name="m")
    assert one_bit.tolist() == [[0, 1], [1, 1]]


def test_palette_mask_gives_indices_not_colours():
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert decode_mask(buffer.getvalue(), name="m").tolist() == [[0, 1], [2, 1]]


def test_coloured_or_too_deep_mask_is_refused():
    with pytest.raises(DataError, match="coloured"):
        decode_mask(encoded(pixels(0)), name="m")
    with pytest.raises(DataError, match=r"0\.\.300"):
        decode_mask(encoded(np.array([[0, 300]], np.uint16)), name="m")


def test_mask_of_another_size_names_both_sizes():
    with pytest.raises(DataError, match=r"mask m\.png is 12x10 pixels, its image 10x12"):
        decode_mask(encoded(RAMP), name="m.png", size_px=(10, 12))


def test_square_takes_the_middle():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    assert (np.asarray(square(Image.fromarray(wide), 5)) == 200).all()
    assert (square_mask(wide[..., 0], 5) == 200).all()


@pytest.mark.parametrize("encode", [encode_png, encode_pnm])
def test_encoding_is_lossless_for_colour_and_grey(encode):
    assert (np.asarray(decode(encode(pixels(3)), name="x")) == pixels(3)).all()
    assert (decode_mask(encode(RAMP), name="x") == RAMP).all()
