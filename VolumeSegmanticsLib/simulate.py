"""The demo tomogram: a fibre composite whose truth is known to the voxel, scanned and reconstructed as a real one is.

The physics follows A. C. Kak and M. Slaney, *Principles of Computerized Tomographic Imaging*, chapter 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage, sparse
from scipy.spatial.distance import cdist

from .errors import InputError
from .volume import UNLABELLED, Grid, LabelClass, LabelMap, Volume

Floats = NDArray[np.float32]
Shape = tuple[int, int, int]

MATRIX = LabelClass(1, "Matrix", (0.22, 0.53, 0.85))
FIBRE = LabelClass(2, "Fibre", (0.98, 0.70, 0.12))
PORE = LabelClass(3, "Pore", (0.86, 0.16, 0.42))

ATTENUATION = {MATRIX: 1.0, FIBRE: 1.6, PORE: 0.1}
"""How strongly each material absorbs, in units of the matrix."""

SHORTEST_SIDE = 16
"""Voxels; nothing smaller holds a fibre, a pore and some matrix between them."""


@dataclass(frozen=True)
class Scan:
    """How the sample is scanned.

    Attributes:
        views_per_pixel: Projections over 180° for each pixel of the sample's diameter.
        photons_per_pixel: Photons that reach a detector pixel past the sample, for each pixel of the diameter: a wider
            sample needs more of them for the same noise.
        absorption: Line integral of the attenuation through the middle of a sample of pure matrix.
        gain_error: Standard deviation of the pixels' gains after the flat-field correction; becomes rings.
        blur_px: Standard deviation of the detector's point spread, in pixels.
    """

    views_per_pixel: float = 1.5
    photons_per_pixel: float = 4.0
    absorption: float = 1.5
    gain_error: float = 0.02
    blur_px: float = 0.6


@dataclass(frozen=True)
class Ply:
    """Bundles of nearly parallel fibres between two heights.

    Attributes:
        start, end: The heights, as parts of the Y side.
        direction: (z, y, x), in which the fibres run.
        share: How many fibres are tried, for each square voxel of the ply's cross section; where it is full, fewer fit.
    """

    start: float
    end: float
    direction: tuple[float, float, float]
    share: float = 0.024


LAY_UP = (
    Ply(0.0, 0.38, (1.0, 0.0, 0.12)),
    Ply(0.43, 0.59, (0.15, 0.0, 1.0), share=0.05),
    Ply(0.64, 1.0, (1.0, 0.05, -0.18)),
)
"""Two plies along Z, and one that crosses between them."""


def fibre_composite(
    shape: Shape = (96, 160, 160),
    *,
    rng: np.random.Generator | int = 0,
    scan: Scan | None = None,
    spacing_mm: float = 0.001,
) -> tuple[Volume, LabelMap]:
    """Simulate an X-ray micro-CT of a fibre composite.

    The sample is a cylinder about the Z axis that fills the field of view. Takes a few seconds at the default shape;
    time and memory grow with the cube of the Y and X sides.

    Args:
        shape: Voxels along (Z, Y, X), each at least 16.
        rng: A generator, or the seed of one; the same seed gives the same tomogram.
        scan: How noisy, how blurred.
        spacing_mm: Side of a voxel.

    Returns:
        The tomogram, uint8, and its truth: ``MATRIX``, ``FIBRE`` and ``PORE``, and ``UNLABELLED`` outside the field of
        view, where the tomogram is 0.

    Raises:
        InputError: A side is shorter than 16 voxels.
    """
    if min(shape) < SHORTEST_SIDE:
        raise InputError(
            f"A fibre composite of {shape} voxels is too small to hold a fibre.",
            f"Make each side at least {SHORTEST_SIDE} voxels.",
        )
    rng = np.random.default_rng(rng)
    fibre, pore = phantom(shape, rng=rng)
    beam = ParallelBeam.around(shape[1:], views_per_pixel=(scan or Scan()).views_per_pixel)
    sample = attenuation(fibre, pore) * beam.inside(margin=0.0)
    seen = beam.inside(margin=1.5)
    tomogram = _grey(scanned(sample, beam, scan or Scan(), rng=rng), seen)
    grid = Grid(shape, (spacing_mm,) * 3)
    truth = np.where(seen, _classes(fibre, pore), np.uint8(UNLABELLED))
    return Volume(tomogram, grid), LabelMap(truth, grid, (MATRIX, FIBRE, PORE))


def attenuation(fibre: Floats, pore: Floats) -> Floats:
    """Mix the materials of each voxel by their parts of it."""
    contrast = {material: ATTENUATION[material] - ATTENUATION[MATRIX] for material in (FIBRE, PORE)}
    return np.float32(ATTENUATION[MATRIX]) + contrast[FIBRE] * fibre + contrast[PORE] * pore


def _classes(fibre: Floats, pore: Floats) -> NDArray[np.uint8]:
    """Return the material that fills most of each voxel, uint8 (Z, Y, X)."""
    return np.select((fibre >= 0.5, pore >= 0.5), (FIBRE.value, PORE.value), MATRIX.value).astype(np.uint8)


def _grey(tomogram: Floats, seen: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Spread the middle 99.8 % of what is seen over 1 … 255; what is not seen becomes 0."""
    low, high = np.percentile(tomogram[:, seen], (0.1, 99.9))
    grey = np.clip((tomogram - low) / (high - low), 0, 1) * 254 + 1
    return np.where(seen, np.rint(grey), 0).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------- the sample


@dataclass(frozen=True, eq=False)
class Rod:
    """A straight fibre: all points within ``radius`` voxels of the line from ``start`` to ``end``, both (z, y, x)."""

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    radius: float

    def points(self, number: int = 64) -> NDArray[np.float64]:
        """Return points along the axis, (number, 3)."""
        return np.linspace(self.start, self.end, number)

    def touches(self, others: list[Rod], *, gap: float = 0.7) -> bool:
        """Say whether there is less than ``gap`` voxels of matrix between this rod and one of the others."""
        if not others:
            return False
        apart = cdist(self.points(), np.concatenate([rod.points() for rod in others])).min(axis=0)
        reach = np.repeat([rod.radius for rod in others], len(self.points())) + self.radius + gap
        return bool((apart < reach).any())


def phantom(shape: Shape, *, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw a fibre composite.

    Returns:
        The part of each voxel that is fibre, and the part that is pore: float32 (Z, Y, X), 0 to 1, together at most 1.
    """
    fibre = np.zeros(shape, np.float32)
    for rod in _rods(shape, rng):
        _draw_rod(fibre, rod)
    return fibre, _pores(fibre, rng)


def _rods(shape: Shape, rng: np.random.Generator) -> list[Rod]:
    rods: list[Rod] = []
    for ply in LAY_UP:
        width = shape[2] if abs(ply.direction[0]) > abs(ply.direction[2]) else shape[0]
        for _ in range(round(ply.share * (ply.end - ply.start) * shape[1] * width)):
            rod = _rod(ply, shape, rng)
            if not rod.touches(rods):
                rods.append(rod)
    return rods


def _rod(ply: Ply, shape: Shape, rng: np.random.Generator) -> Rod:
    """Draw a fibre of a ply that runs from one face of the volume to the opposite one."""
    direction = np.array(ply.direction) + rng.normal(0, 0.035, 3)
    low, high = np.array((0.0, ply.start, 0.0)), np.array((1.0, ply.end, 1.0))
    middle = rng.uniform(low, high) * shape
    longest = int(np.argmax(np.abs(direction)))
    middle[longest] = shape[longest] / 2
    half = direction / abs(direction[longest]) * (shape[longest] / 2 + 6)
    return Rod(middle - half, middle + half, float(rng.uniform(3.0, 5.0)))


def _draw_rod(fibre: Floats, rod: Rod) -> None:
    """Raise ``fibre`` to the part of each voxel that the rod fills: a soft edge, one voxel wide."""
    box = _box_around(np.stack((rod.start, rod.end)), rod.radius + 1, fibre.shape)
    offset = [axis - start for axis, start in zip(np.ogrid[box], rod.start, strict=True)]
    length = float(np.linalg.norm(rod.end - rod.start))
    unit = (rod.end - rod.start) / length
    along = sum(o * u for o, u in zip(offset, unit, strict=True))
    to_start = sum(o * o for o in offset)
    nearest = np.clip(along, 0, length)
    distance = np.sqrt(np.maximum(to_start - 2 * nearest * along + nearest**2, 0))
    np.maximum(fibre[box], np.clip(rod.radius - distance + 0.5, 0, 1), out=fibre[box])


def _box_around(points: NDArray[np.float64], margin: float, shape: tuple[int, ...]) -> tuple[slice, ...]:
    low = np.floor(points.min(axis=0) - margin).clip(0, shape).astype(int)
    high = np.ceil(points.max(axis=0) + margin + 1).clip(0, shape).astype(int)
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True))


def _pores(fibre: Floats, rng: np.random.Generator, *, voxels_per_pore: int = 36_000) -> Floats:
    """Draw ragged ellipsoids between the fibres; the fibres stay whole."""
    roughness = ndimage.gaussian_filter(rng.standard_normal(fibre.shape, np.float32), 2.5)
    roughness /= roughness.std()
    pore = np.zeros_like(fibre)
    for _ in range(max(6, fibre.size // voxels_per_pore)):
        _draw_pore(pore, roughness, _centre_in_matrix(fibre, rng), rng.uniform((3.5, 3.0, 3.0), (10.0, 7.5, 7.5)))
    return pore * (1 - fibre)


def _centre_in_matrix(fibre: Floats, rng: np.random.Generator, *, tries: int = 50) -> NDArray[np.float64]:
    """Draw a point in the inner part of the field of view, in the matrix if one of the tries finds it."""
    shape = np.array(fibre.shape)
    for _ in range(tries):
        angle, radius = rng.uniform(0, 2 * np.pi), 0.44 * min(shape[1:]) * math.sqrt(rng.uniform())
        centre = np.array((rng.uniform(0, shape[0] - 1), *(shape[1:] - 1) / 2))
        centre[1:] += radius * np.array((np.sin(angle), np.cos(angle)))
        if fibre[tuple(np.rint(centre).astype(int))] == 0:
            break
    return centre


def _draw_pore(pore: Floats, roughness: Floats, centre: NDArray[np.float64], half_axes: NDArray[np.float64]) -> None:
    box = _box_around(np.stack((centre - half_axes, centre + half_axes)), 4, pore.shape)
    scaled = sum(
        ((axis - middle) / half) ** 2 for axis, middle, half in zip(np.ogrid[box], centre, half_axes, strict=True)
    )
    inward = (1 - np.sqrt(scaled) + 0.17 * roughness[box]) * half_axes.min()  # voxels from the wall, about
    np.maximum(pore[box], np.clip(inward + 0.5, 0, 1), out=pore[box])


# ---------------------------------------------------------------------------------------------------- the physics


@dataclass(frozen=True, eq=False)
class ParallelBeam:
    """A parallel beam about the middle of a slice, as one sparse matrix that serves all slices at once.

    Attributes:
        shape_yx: Pixels of a slice.
        radius: Of the field of view, in pixels; what lies outside is not projected.
        angles: Of the projections in radians; at angle a the detector sees x·cos a + y·sin a, from the middle.
        detectors: Pixels of a detector row, each as wide as a pixel of the slice.
        weights: CSR (pixels in the field of view, angles × detectors): how much of each pixel falls on each detector
            pixel, shared linearly between the two nearest.
    """

    shape_yx: tuple[int, int]
    radius: float
    angles: NDArray[np.float64]
    detectors: int
    weights: sparse.csr_matrix

    @classmethod
    def around(cls, shape_yx: tuple[int, ...], *, views_per_pixel: float = 1.5) -> ParallelBeam:
        """Make the beam whose field of view is the largest circle in a slice."""
        rows, columns = shape_yx
        radius = min(shape_yx) / 2
        angles = np.linspace(0, np.pi, math.ceil(2 * radius * views_per_pixel), endpoint=False, dtype=np.float64)
        detectors = 2 * math.ceil(radius) + 3
        y, x = np.nonzero(_circle((rows, columns), radius))
        place = np.outer(x - (columns - 1) / 2, np.cos(angles)) + np.outer(y - (rows - 1) / 2, np.sin(angles))
        place += (detectors - 1) / 2
        left = np.floor(place).astype(np.int32)
        share = (place - left).astype(np.float32)
        column = left + np.arange(len(angles), dtype=np.int32) * detectors
        weights = sparse.csr_matrix(
            (
                np.stack((1 - share, share), axis=-1).ravel(),
                np.stack((column, column + 1), axis=-1).ravel(),
                np.arange(len(y) + 1) * (2 * len(angles)),
            ),
            shape=(len(y), len(angles) * detectors),
        )
        return cls((rows, columns), radius, angles, detectors, weights)

    def inside(self, *, margin: float) -> NDArray[np.bool_]:
        """Return the pixels further than ``margin`` inside the field of view, bool (Y, X)."""
        return _circle(self.shape_yx, self.radius - margin)

    def project(self, slices: Floats) -> Floats:
        """Return the line integrals of slices (Z, Y, X): float32 (angles, detectors, Z)."""
        pixels = slices[:, self.inside(margin=0.0)].T.astype(np.float32)
        sinograms: Floats = self.weights.T @ np.ascontiguousarray(pixels)
        return sinograms.reshape(len(self.angles), self.detectors, -1)

    def reconstruct(self, sinograms: Floats) -> Floats:
        """Return the slices, float32 (Z, Y, X), of line integrals (angles, detectors, Z), by filtered back projection.

        Outside the field of view they are 0.
        """
        filtered = _ramp_filtered(sinograms).reshape(len(self.angles) * self.detectors, -1)
        slices = np.zeros((sinograms.shape[2], *self.shape_yx), np.float32)
        slices[:, self.inside(margin=0.0)] = (self.weights @ filtered).T * (np.pi / len(self.angles))
        return slices


def _circle(shape_yx: tuple[int, int], radius: float) -> NDArray[np.bool_]:
    y, x = (np.arange(n) - (n - 1) / 2 for n in shape_yx)
    inside: NDArray[np.bool_] = y[:, None] ** 2 + x**2 <= radius**2
    return inside


def _ramp_filtered(sinograms: Floats) -> Floats:
    """Filter along the detector with the ramp, damped by a Hann window.

    The ramp comes from its band-limited impulse response (Kak and Slaney, equation 61), which keeps the mean right.
    """
    detectors = sinograms.shape[1]
    length = fft.next_fast_len(2 * detectors, real=True)
    n = fft.fftfreq(length, 1 / length)
    with np.errstate(divide="ignore"):
        response = np.where(n % 2 == 1, -1 / (np.pi * n) ** 2, 0)
    response[0] = 0.25
    frequency = fft.rfftfreq(length)
    ramp = fft.rfft(response).real * (0.5 + 0.5 * np.cos(2 * np.pi * frequency))
    spectrum = fft.rfft(sinograms, length, axis=1) * ramp[:, None].astype(np.float32)
    filtered: Floats = fft.irfft(spectrum, length, axis=1)[:, :detectors]
    return filtered


def scanned(sample: Floats, beam: ParallelBeam, scan: Scan, *, rng: np.random.Generator) -> Floats:
    """Return what a scanner makes of a sample (Z, Y, X): blur, photon noise, rings, filtered back projection.

    Both the sample and the result are in units of the matrix's attenuation.
    """
    per_unit = scan.absorption / (2 * beam.radius)
    transmitted = np.exp(-per_unit * beam.project(sample))
    if scan.blur_px > 0:
        transmitted = ndimage.gaussian_filter(transmitted, (0, scan.blur_px, scan.blur_px), mode="nearest")
    gain = _gains(beam.detectors, len(sample), scan.gain_error, rng)
    photons = scan.photons_per_pixel * 2 * beam.radius
    counts = np.maximum(rng.poisson(photons * gain * transmitted), 1)
    line_integrals = -np.log(counts.astype(np.float32) / np.float32(photons))
    return beam.reconstruct(line_integrals) / np.float32(per_unit)


def _gains(detectors: int, rows: int, error: float, rng: np.random.Generator) -> Floats:
    """Draw the gains of the detector pixels, (detectors, Z): alike in neighbouring rows, as rings are in real scans."""
    gains = ndimage.gaussian_filter1d(rng.standard_normal((detectors, rows), np.float32), 4.0, axis=1)
    scaled: Floats = 1 + error * gains / gains.std()
    return scaled


# ---------------------------------------------------------------------------------------------------- the brush


def strokes(
    truth: LabelMap,
    *,
    rng: np.random.Generator | int = 0,
    slices: int = 5,
    across: int = 1,
    strokes_per_class: int = 5,
    length: float = 14.0,
    radius: float = 1.5,
) -> LabelMap:
    """Paint what a user would: a few curved strokes a class, in a few slices, each stroke inside its class.

    Args:
        truth: What the strokes agree with everywhere.
        rng: A generator, or the seed of one.
        slices: Axial slices that are painted, spread over Z.
        across: Slices perpendicular to Y that are painted besides.
        strokes_per_class: In each slice; a class that has no voxel there gets none.
        length: Of a stroke, in voxels; a stroke ends early where its class does.
        radius: Of the brush, in voxels; in a spot smaller than the brush the stroke becomes a dab.

    Returns:
        Scribbles with the classes of ``truth``, ``UNLABELLED`` where nothing was painted.
    """
    rng = np.random.default_rng(rng)
    painted = np.full(truth.grid.shape, UNLABELLED, np.uint8)
    for axis, number in ((0, slices), (1, across)):
        canvas, seen = np.moveaxis(painted, axis, 0), np.moveaxis(truth.array, axis, 0)
        for index in _slices_worth_painting(seen, number):
            for material in truth.classes:
                for _ in range(strokes_per_class):
                    stroke = _stroke(seen[index] == material.value, length, radius, rng)
                    canvas[index][stroke] = material.value
    return LabelMap(painted, truth.grid, truth.classes, unpainted="ignore")


def _slices_worth_painting(labels: NDArray[np.uint8], number: int) -> Iterator[int]:
    """Of ``number`` equal parts of a label array, take the slice that shows every class best."""
    values = [value for value in np.unique(labels) if value != UNLABELLED]
    if not values or number < 1:
        return
    shown = np.array([(labels == value).sum(axis=(1, 2)) for value in values])
    worth = (shown / shown.sum(axis=1, keepdims=True)).min(axis=0)
    for part in np.array_split(np.arange(len(labels)), number):
        if len(part):
            yield int(part[np.argmax(worth[part])])


def _stroke(region: NDArray[np.bool_], length: float, radius: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return one stroke inside a region, bool (rows, columns); empty where the region is."""
    if not region.any():
        return region
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    room = depth > radius
    path = _walk(room if room.any() else depth == depth.max(), length, rng)
    rows, columns = np.ogrid[: region.shape[0], : region.shape[1]]
    brush = [(rows - row) ** 2 + (columns - column) ** 2 <= radius**2 for row, column in path]
    stroke: NDArray[np.bool_] = region & np.logical_or.reduce(brush)
    return stroke


def _walk(room: NDArray[np.bool_], length: float, rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """Walk in steps of one voxel and gentle bends through the room; end where no bend stays in it."""
    place = rng.choice(np.argwhere(room)).astype(float)
    heading, bend = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.12)
    path = [place]
    while len(path) < length:
        headings = heading + bend + np.array((0.0, 0.5, -0.5, 1.0, -1.0))
        steps = np.stack((np.sin(headings), np.cos(headings)), axis=1)
        free = [i for i, step in enumerate(steps) if _holds(room, place + step)]
        if not free:
            break
        place, heading = place + steps[free[0]], headings[free[0]]
        path.append(place)
    return path


def _holds(room: NDArray[np.bool_], point: NDArray[np.float64]) -> bool:
    row, column = np.rint(point).astype(int)
    return 0 <= row < room.shape[0] and 0 <= column < room.shape[1] and bool(room[row, column])
