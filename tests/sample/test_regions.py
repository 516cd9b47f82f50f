"""Shapes of masks: discs, pasting bit for bit, tidying."""

import numpy as np
import pytest

from factory.methods.pairs.real import blend_weights, dilated, ellipse, pasted, pixels_of, tidied

RNG = np.random.default_rng(0)
DRAWN, REAL = RNG.integers(0, 256, (2, 32, 32, 3), np.uint8)


def disc(diameter: int, *, value: int = 1, size: int = 32, at: tuple[int, int] = (10, 10)):
    mask = np.zeros((size, size), np.uint8)
    mask[at[0] : at[0] + diameter, at[1] : at[1] + diameter][ellipse(diameter)] = value
    return mask


@pytest.mark.parametrize("diameter", [1, 4, 5, 20])
def test_a_disc_is_round_and_as_wide_as_asked(diameter: int) -> None:
    made = ellipse(diameter)
    assert made.shape == (diameter, diameter)
    assert np.array_equal(made, made[::-1])
    assert np.array_equal(made, made.T)
    assert made.any(0).all()
    assert made.sum() == pytest.approx(np.pi * diameter**2 / 4, rel=0.35 if diameter < 6 else 0.05)


def test_shares_become_pixels() -> None:
    assert pixels_of(20 / 256, 256) == 20
    assert pixels_of(20 / 256, 64) == 5
    assert pixels_of(0, 64) == 0
    assert pixels_of(0.001, 64) == 1


def test_dilation_grows_by_the_radius_on_every_side() -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[12:20, 12:20] = 2
    grown = dilated(mask, 5)
    assert (np.flatnonzero(grown.any(0))[[0, -1]] == [10, 21]).all()
    assert np.array_equal(dilated(mask, 0), mask > 0)


@pytest.mark.parametrize("blend_px", [0, 3])
def test_outside_the_region_every_bit_is_real(blend_px: int) -> None:
    region = dilated(disc(9), 5)
    out = pasted(DRAWN, REAL, region, blend_px=blend_px)
    assert np.array_equal(out[~region], REAL[~region])
    assert (out[region] != REAL[region]).mean() > 0.9
    if blend_px == 0:
        assert np.array_equal(out[region], DRAWN[region])


def test_a_blend_rises_from_the_edge_inwards() -> None:
    region = np.zeros((32, 32), bool)
    region[8:24, 8:24] = True
    weights = blend_weights(region, 3)
    assert weights[16, 8:13].tolist() == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert weights[~region].max() == 0


def test_a_region_at_the_border_is_not_blended_there() -> None:
    region = np.zeros((8, 8), bool)
    region[:, :4] = True
    assert blend_weights(region, 2)[0, 0] == 1


def test_opening_removes_threads_and_keeps_discs() -> None:
    mask = disc(14)
    mask[16, :] = 1
    tidy = tidied(mask, opening_px=5)
    assert tidy[16, :8].max() == 0
    assert (tidy & disc(14)).sum() > 0.9 * disc(14).sum()


def test_an_object_cut_by_the_border_keeps_its_corners() -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[:12, :] = 1
    assert np.array_equal(tidied(mask, opening_px=7), mask)


def test_small_objects_go_and_holes_are_filled() -> None:
    mask = disc(14)
    mask[16, 16] = 0
    mask[2:4, 2:4] = 1
    tidy = tidied(mask, min_area_px=5, fill_holes=True)
    assert np.array_equal(tidy, disc(14))


def test_a_nucleus_stays_within_its_cell() -> None:
    mask = disc(20, at=(6, 6))
    nucleus = disc(8, at=(12, 12)) > 0
    mask[nucleus] = 2
    mask[30, 30] = 2
    tidy = tidied(mask, opening_px=3, min_area_px=4, fill_holes=True)
    assert (tidy[nucleus] == 2).mean() > 0.8
    assert tidy[30, 30] == 0
    assert set(np.unique(tidy)) == {0, 1, 2}


def test_an_empty_mask_stays_empty() -> None:
    empty = np.zeros((8, 8), np.uint8)
    assert np.array_equal(tidied(empty, opening_px=3, min_area_px=3, fill_holes=True), empty)
