import numpy as np
import pytest
from scipy import ndimage

from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.simulate import (
    FIBRE,
    MATRIX,
    PORE,
    ParallelBeam,
    Rod,
    Scan,
    attenuation,
    fibre_composite,
    phantom,
    scanned,
    strokes,
)
from VolumeSegmanticsLib.volume import Grid, LabelMap, Volume

SHAPE = (24, 48, 56)


@pytest.fixture(scope="module")
def a_tomogram() -> tuple[Volume, LabelMap]:
    return fibre_composite(SHAPE, rng=5)


@pytest.fixture(scope="module")
def a_beam() -> ParallelBeam:
    return ParallelBeam.around((64, 70))


def disc(shape_yx: tuple[int, int], centre_yx: tuple[float, float], radius: float) -> np.ndarray:
    """One slice (1, Y, X) with a disc of value 1 and a soft edge."""
    y, x = np.ogrid[: shape_yx[0], : shape_yx[1]]
    distance = np.hypot(y - centre_yx[0], x - centre_yx[1])
    return np.clip(radius - distance + 0.5, 0, 1)[None].astype(np.float32)


def test_the_same_seed_gives_the_same_tomogram_and_another_seed_another(a_tomogram):
    image, truth = a_tomogram
    again, truth_again = fibre_composite(SHAPE, rng=np.random.default_rng(5))
    np.testing.assert_array_equal(image.array, again.array)
    np.testing.assert_array_equal(truth.array, truth_again.array)
    assert (fibre_composite(SHAPE, rng=6)[0].array != image.array).any()


def test_image_and_truth_lie_on_one_grid_of_the_shape_asked_for(a_tomogram):
    image, truth = a_tomogram
    assert image.grid == truth.grid == Grid(SHAPE, (0.001,) * 3)
    assert image.array.dtype == truth.array.dtype == np.uint8
    assert truth.classes == (MATRIX, FIBRE, PORE)


def test_outside_the_field_of_view_the_truth_is_unlabelled_and_the_image_black(a_tomogram):
    image, truth = a_tomogram
    y, x = np.ogrid[: SHAPE[1], : SHAPE[2]]
    seen = np.hypot(y - 23.5, x - 27.5) <= 24 - 1.5
    assert (truth.array[:, ~seen] == 255).all()
    assert (truth.array[:, seen] != 255).all()
    assert (image.array[:, ~seen] == 0).all()
    assert (image.array[:, seen] > 0).all()


def test_all_materials_are_there_and_differ_in_grey_by_their_order(a_tomogram):
    image, truth = a_tomogram
    assert min(truth.counts().values()) > 100
    pore, matrix, fibre = (image.array[truth.array == c.value].mean() for c in (PORE, MATRIX, FIBRE))
    assert pore + 20 < matrix < fibre - 20


def test_noise_is_too_strong_for_a_plain_threshold(a_tomogram):
    image, truth = a_tomogram
    matrix, fibre = (image.array[truth.array == c.value].astype(float) for c in (MATRIX, FIBRE))
    threshold = (matrix.mean() + fibre.mean()) / 2
    assert (fibre < threshold).mean() > 0.1
    assert matrix.std() > (fibre.mean() - matrix.mean()) / 4


def test_parts_of_fibre_and_pore_fill_a_voxel_once_at_most():
    fibre, pore = phantom(SHAPE, rng=np.random.default_rng(1))
    assert fibre.dtype == pore.dtype == np.float32
    assert min(fibre.min(), pore.min()) == 0
    assert (fibre + pore).max() <= 1


def test_attenuation_mixes_materials_by_their_parts():
    fibre, pore = np.array([0, 1, 0, 0.5], np.float32), np.array([0, 0, 1, 0.5], np.float32)
    np.testing.assert_allclose(attenuation(fibre, pore), [1.0, 1.6, 0.1, 0.85], rtol=1e-6)


@pytest.mark.parametrize(("distance", "expected"), [(5.0, True), (9.0, False)])
def test_rods_touch_where_less_matrix_than_the_gap_is_between_them(distance, expected):
    end = np.array((20.0, 0.0, 0.0))
    away = np.array((0.0, 0.0, distance))
    one, other = Rod(np.zeros(3), end, 3.0), Rod(away, end + away, 3.0)
    assert one.touches([other]) is expected
    assert one.touches([]) is False


def test_too_small_a_shape_is_refused():
    with pytest.raises(InputError, match=r"\(8, 48, 48\)"):
        fibre_composite((8, 48, 48))


def test_a_projection_holds_all_that_a_slice_holds(a_beam):
    slices = np.concatenate([disc((64, 70), (30, 40), 9), disc((64, 70), (22, 30), 5)])
    sinograms = a_beam.project(slices)
    assert sinograms.shape == (len(a_beam.angles), a_beam.detectors, 2)
    expected = np.broadcast_to(slices.sum(axis=(1, 2)), (len(a_beam.angles), 2))
    np.testing.assert_allclose(sinograms.sum(axis=1), expected, rtol=1e-4)


def test_a_noiseless_disc_comes_back_with_its_value_in_its_place(a_beam):
    sample = disc((64, 70), (22.0, 44.0), 10)
    slices = a_beam.reconstruct(a_beam.project(sample))
    y, x = np.ogrid[:64, :70]
    distance = np.hypot(y - 22, x - 44)
    assert slices[0][distance < 7].mean() == pytest.approx(1, abs=0.01)
    assert np.abs(slices[0][distance < 7] - 1).max() < 0.05
    assert abs(slices[0][(distance > 13) & a_beam.inside(margin=2)].mean()) < 0.01
    np.testing.assert_allclose(ndimage.center_of_mass(np.where(slices[0] > 0.5, slices[0], 0)), (22, 44), atol=0.05)


def test_an_asymmetric_sample_comes_back_neither_mirrored_nor_turned(a_beam):
    sample = disc((64, 70), (16, 30), 6) + 0.5 * disc((64, 70), (34, 52), 4) + 0.7 * disc((64, 70), (44, 26), 5)
    slices = a_beam.reconstruct(a_beam.project(sample))[0]

    def likeness(picture: np.ndarray) -> float:
        return float(np.corrcoef(picture.ravel(), sample[0].ravel())[0, 1])

    assert likeness(slices) > 0.97
    assert max(likeness(slices[::-1]), likeness(slices[:, ::-1]), likeness(slices[::-1, ::-1])) < 0.5


def test_slices_are_projected_independently_and_keep_their_order(a_beam):
    first, second = disc((64, 70), (20, 30), 8), 2 * disc((64, 70), (40, 40), 6)
    both = a_beam.reconstruct(a_beam.project(np.concatenate([first, second])))
    np.testing.assert_allclose(both[0], a_beam.reconstruct(a_beam.project(first))[0], atol=1e-5)
    np.testing.assert_allclose(both[1], a_beam.reconstruct(a_beam.project(second))[0], atol=1e-5)


def test_a_scan_with_many_photons_and_equal_gains_returns_the_sample(a_beam):
    sample = disc((64, 70), (31.5, 34.5), 25)
    gentle = Scan(photons_per_pixel=1e6, gain_error=0.0, blur_px=0.0)
    result = scanned(sample, a_beam, gentle, rng=np.random.default_rng(0))
    assert result[0][20:44, 22:46].mean() == pytest.approx(1, abs=0.02)
    assert result[0][20:44, 22:46].std() < 0.03


def test_fewer_photons_make_more_noise_and_unequal_gains_make_rings(a_beam):
    sample = disc((64, 70), (31.5, 34.5), 30)

    def roughness(**settings: float) -> float:
        scan = Scan(**{"photons_per_pixel": 1e6, "gain_error": 0.0, **settings})
        return float(scanned(sample, a_beam, scan, rng=np.random.default_rng(0))[0][12:52, 14:54].std())

    assert roughness(photons_per_pixel=4) > 2 * roughness(photons_per_pixel=64)
    assert roughness(gain_error=0.05) > 3 * roughness()


def test_strokes_agree_with_the_truth_everywhere(a_tomogram):
    _, truth = a_tomogram
    painted = strokes(truth, rng=2)
    labelled = painted.array != 255
    np.testing.assert_array_equal(painted.array[labelled], truth.array[labelled])
    assert painted.grid == truth.grid
    assert painted.classes == truth.classes
    assert min(painted.counts().values()) > 20


def test_strokes_lie_in_as_many_slices_as_asked_for(a_tomogram):
    _, truth = a_tomogram
    axial = strokes(truth, rng=2, slices=3, across=0).array != 255
    assert axial.any(axis=(1, 2)).sum() == 3
    coronal = strokes(truth, rng=2, slices=0, across=1).array != 255
    assert coronal.any(axis=(0, 2)).sum() == 1


def test_strokes_are_the_same_for_the_same_seed(a_tomogram):
    _, truth = a_tomogram
    np.testing.assert_array_equal(strokes(truth, rng=7).array, strokes(truth, rng=7).array)
    assert (strokes(truth, rng=7).array != strokes(truth, rng=8).array).any()


def test_a_spot_smaller_than_the_brush_gets_a_dab():
    array = np.full((1, 20, 20), 1, np.uint8)
    array[0, 4, 6] = 2
    painted = strokes(LabelMap.of(array), rng=0, slices=1, across=0, radius=2.5)
    assert painted.counts()[2] == 1
    assert painted.counts()[1] > 15


def test_a_truth_without_labels_gets_no_strokes():
    truth = LabelMap.of(np.full((4, 5, 6), 255, np.uint8))
    assert (strokes(truth).array == 255).all()


def test_the_demo_has_few_strokes_of_every_material():
    _, truth = fibre_composite()
    painted = strokes(truth)
    part = sum(painted.counts().values()) / painted.array.size
    assert 0.001 <= part <= 0.002
    assert min(painted.counts().values()) >= 150
