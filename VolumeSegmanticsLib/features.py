"""Features of a voxel that do not depend on how the sample was turned, octave by octave.

In every octave: the smoothed image, the length of its gradient, the eigenvalues of its Hessian and the square roots of
those of its structure tensor; and the local means of their absolute values, which tell textures apart (J. Malik and
P. Perona, "Preattentive texture discrimination with early vision mechanisms", 1990). The next octave sees the image
halved by 2 × 2 × 2 means, and what it finds is brought back by linear interpolation between the centres of its voxels.
So mirroring the image, or turning it by 90°, mirrors and turns the features.

Everything is made of sums of shifted copies of whole blocks, which is several times faster on a CPU than convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

PER_OCTAVE = 13
"""Features of one channel in one octave."""

AXES = (1, 2, 3)  # of blocks (C, Z, Y, X)
_SAME_SCALE = math.sqrt(2)  # an axis is as fine as an octave where its voxels are no longer than this many times more
_TINY = 1e-24
_RECTIFIED = 5  # the last features of an octave are local means of absolute values
_POOLED = 11  # the structure tensor, the length of the gradient, three eigenvalues, and what smoothing takes away
_CACHED_VOXELS = 30_000  # planes of so many voxels are worked on at a time

Margin = tuple[int, int, int]
Axes = Sequence[bool]


@dataclass(frozen=True)
class Octave:
    """How one octave treats the axes Z, Y, X.

    Attributes:
        halves: 2 for the axes that are smoothed here and halved for the next octave, 1 for those that are too coarse.
        slopes: What turns a difference between neighbours into one over the octave's own length.
        pools: Whether the axes are smoothed after they were halved.
    """

    halves: tuple[int, int, int]
    slopes: tuple[float, float, float]
    pools: tuple[bool, bool, bool]

    @cached_property
    def around(self) -> Margin:
        """Voxels on each side over which what is pooled has to be known."""
        return tuple(half * (2 * pools + half - 1) for half, pools in zip(self.halves, self.pools, strict=True))  # type: ignore[return-value]

    @cached_property
    def reach(self) -> Margin:
        """Voxels that are needed on each side: for smoothing, for differences, and around."""
        return tuple(2 * (half - 1) + 1 + around for half, around in zip(self.halves, self.around, strict=True))  # type: ignore[return-value]

    @cached_property
    def margin(self) -> Margin:
        """The reach, rounded up to a multiple of ``halves``."""
        return tuple(-(-reach // half) * half for reach, half in zip(self.reach, self.halves, strict=True))  # type: ignore[return-value]


@dataclass(frozen=True)
class Features:
    """What is measured around every voxel.

    Args:
        octaves: How many; each looks twice as far as the one before.
        spacing: Voxel spacing (Z, Y, X): coarse axes are left alone until the others are as coarse.
        flat: True for axes along which there is one voxel only.
    """

    octaves: int
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    flat: tuple[bool, bool, bool] = (False, False, False)

    def count(self, channels: int) -> int:
        """Return how many features an image of some channels has."""
        return channels * (1 + PER_OCTAVE * self.octaves)

    def seen(self, octaves: int, pooled: bool, channels: int) -> Tensor:
        """Return 1 for the features of the first octaves, with or without local means, and 0 for the others."""
        per_octave = torch.ones(self.octaves, PER_OCTAVE, channels)
        per_octave[octaves:] = 0
        if not pooled:
            per_octave[:, -_RECTIFIED:] = 0
        return torch.cat([torch.ones(channels), per_octave.flatten()])

    @cached_property
    def plan(self) -> tuple[Octave, ...]:
        """The octaves, the finest first."""
        length = min(s for s, flat in zip(self.spacing, self.flat, strict=True) if not flat or all(self.flat))
        steps, octaves = list(self.spacing), []
        fine = self._fine(steps, length)
        for _ in range(self.octaves):
            slopes = tuple(length / step for step in steps)
            halves = tuple(1 + is_fine for is_fine in fine)
            steps, length = [step * half for step, half in zip(steps, halves, strict=True)], 2 * length
            fine = self._fine(steps, length)
            octaves.append(Octave(halves, slopes, fine))  # type: ignore[arg-type]
        return tuple(octaves)

    def _fine(self, steps: list[float], length: float) -> tuple[bool, ...]:
        return tuple(step < _SAME_SCALE * length and not flat for step, flat in zip(steps, self.flat, strict=True))

    @property
    def fine(self) -> tuple[bool, bool, bool]:
        """The axes along which the first octave smooths."""
        z, y, x = (half == 2 for half in self.plan[0].halves)
        return z, y, x

    @cached_property
    def multiple(self) -> Margin:
        """What the origin of a block, and its sides, have to be multiples of."""
        return tuple(math.prod(octave.halves[axis] for octave in self.plan) for axis in range(3))  # type: ignore[return-value]

    @cached_property
    def margin(self) -> Margin:
        """Voxels that a block needs on each side beyond those whose features are wanted."""
        return _margin(self.plan)

    def of(self, block: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the features of the inner part of a block.

        Args:
            block: float32 (C, Z, Y, X), values about 0 … 1, with ``margin`` on all sides.
            out: Takes them, if given: fresh memory costs as much as a fifth of the work.

        Returns:
            float32 (features, z, y, x), without the margin.
        """
        inner = cropped(block, self.margin)
        out = block.new_empty(self.count(len(block)), *inner.shape[1:]) if out is None else out
        out[: len(block)] = inner
        _pyramid(block, self.plan, out[len(block) :])
        return out


def _margin(plan: tuple[Octave, ...]) -> Margin:
    """Return the margin of a pyramid: that of its finest octave, or what the next ones need, if that is more."""
    own = plan[0].margin
    if len(plan) == 1:
        return own
    return tuple(  # type: ignore[return-value]
        max(mine, half * (theirs + ring))
        for mine, half, theirs, ring in zip(own, plan[0].halves, _margin(plan[1:]), _ring(plan), strict=True)
    )


def _ring(plan: tuple[Octave, ...]) -> Margin:
    """Return the voxels of the next octave beyond the inner part that interpolation needs: whole blocks of them."""
    rest = plan[1:]
    return tuple(  # type: ignore[return-value]
        (half - 1) * math.prod(octave.halves[axis] for octave in rest) for axis, half in enumerate(plan[0].halves)
    )


def _pyramid(block: Tensor, plan: tuple[Octave, ...], out: Tensor) -> None:
    """Write the features of all octaves, of the finest first."""
    first, own = plan[0], PER_OCTAVE * len(block)
    _octave(cropped(block, _minus(_margin(plan), first.margin)), first, out[:own])
    if len(plan) == 1:
        return
    ring = _ring(plan)
    needed = tuple(h * (m + r) for h, m, r in zip(first.halves, _margin(plan[1:]), ring, strict=True))
    coarse = _halved(cropped(block, _minus(_margin(plan), needed)), first.halves)
    sides = (n - 2 * m for n, m in zip(coarse.shape[1:], _margin(plan[1:]), strict=True))
    found = block.new_empty(len(out) - own, *sides)
    _pyramid(coarse, plan[1:], found)
    _doubled(cropped(found, _minus(ring, _one(first.halves))), first.halves, out[own:])


def _octave(block: Tensor, octave: Octave, out: Tensor) -> None:
    """Write the features of one octave; ``block`` has its margin.

    What is halved in the end is made a few planes at a time, so that it stays in the processor's cache.
    """
    shrinks, rest = tuple(half == 2 for half in octave.halves), octave.around
    block = cropped(block, _minus(octave.margin, octave.reach))
    smooth = smoothed(block, shrinks)
    block = cropped(block, tuple(2 * shrink for shrink in shrinks))
    fine = out.view(PER_OCTAVE, len(block), *out.shape[1:])
    sides = [(n - 2) // half for n, half in zip(smooth.shape[1:], octave.halves, strict=True)]
    means = block.new_empty(_POOLED, len(block), *sides)
    half, planes = octave.halves[0], smooth.shape[1] - 2
    step = max(1, _CACHED_VOXELS // smooth[:, 0].numel() // half) * half
    for start in range(0, planes, step):
        count = min(step, planes - start)
        local, pooled = _at_points(block.narrow(1, start, count + 2), smooth.narrow(1, start, count + 2), octave.slopes)
        first, last = max(start, rest[0]), min(start + count, planes - rest[0])
        for n, feature in enumerate(local if first < last else ()):
            wanted = cropped(feature.narrow(1, first - start, last - first), (0, *rest[1:]))
            fine[n, :, first - rest[0] : last - rest[0]] = wanted
        for n, feature in enumerate(pooled):
            means[n, :, start // half : (start + count) // half] = _halved(feature, octave.halves)
    for n, feature in enumerate(_texture(means, octave), PER_OCTAVE - _POOLED + 3):
        _doubled(feature, octave.halves, fine[n])


def _at_points(block: Tensor, smooth: Tensor, slopes: tuple[float, float, float]) -> tuple[list[Tensor], list[Tensor]]:
    """Return what is measured at a voxel, and what is averaged around it: a structure tensor and rectified features."""
    gradient = [_slope(smooth, axis).mul_(slopes[axis] / 2) for axis in range(3)]
    products = [gradient[a] * gradient[b] for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))]
    length = (products[0] + products[1]).add_(products[2]).sqrt_()
    hessian = eigenvalues(*_curvatures(smooth, slopes))
    smooth = cropped(smooth, (1, 1, 1))
    ripple = (cropped(block, (1, 1, 1)) - smooth).abs_()
    return [smooth, length, *hessian], [*products, length, *(value.abs() for value in hessian), ripple]


def _texture(means: Tensor, octave: Octave) -> list[Tensor]:
    """Return local means at the scale of the next octave; of the structure tensor the roots of its eigenvalues."""
    smooth = [smoothed(each, octave.pools) for each in means]
    return [value.clamp_(min=0).sqrt_() for value in eigenvalues(*smooth[:6])] + smooth[6:]


def smoothed(block: Tensor, axes: Axes) -> Tensor:
    """Smooth with 1 4 6 4 1 along some axes; two voxels are lost on each side of them.

    On a CPU it goes a few planes at a time, so that they stay in the processor's cache.
    """
    depth, *sides = (n - 4 * chosen for n, chosen in zip(block.shape[1:], axes, strict=True))
    step = max(1, _CACHED_VOXELS // block[:, 0].numel()) if block.device.type == "cpu" else depth
    out = block.new_empty(len(block), depth, *sides)
    for start in range(0, depth, step):
        count = min(step, depth - start)
        out[:, start : start + count] = _smoothed(block.narrow(1, start, count + 4 * axes[0]), axes)
    return out


def _smoothed(block: Tensor, axes: Axes) -> Tensor:
    for axis, chosen in zip(AXES, axes, strict=True):
        if chosen:
            n = block.shape[axis] - 4
            sum_ = block.narrow(axis, 0, n) + block.narrow(axis, 4, n)
            sum_.add_(block.narrow(axis, 1, n), alpha=4).add_(block.narrow(axis, 3, n), alpha=4)
            block = sum_.add_(block.narrow(axis, 2, n), alpha=6).mul_(1 / 16)
    return block


def local_variance(grey: Tensor, axes: Axes) -> tuple[Tensor, Tensor]:
    """Return mean and variance around each voxel of a block; two voxels are lost on each side of the axes."""
    mean = smoothed(grey, axes)
    return mean, smoothed(grey.square(), axes).addcmul_(mean, mean, value=-1)


def _slope(block: Tensor, axis: int) -> Tensor:
    """Return the difference of the two neighbours along an axis; one voxel is lost on every side."""
    return _shifted(block, {axis: 1}) - _shifted(block, {axis: -1})


def _curvatures(block: Tensor, slopes: tuple[float, float, float]) -> list[Tensor]:
    """Return the second derivatives zz, yy, xx, zy, zx, yx; one voxel is lost on every side."""
    middle = cropped(block, (1, 1, 1))
    found = [
        (_shifted(block, {a: 1}) + _shifted(block, {a: -1})).sub_(middle, alpha=2).mul_(slopes[a] ** 2)
        for a in range(3)
    ]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        mixed = _shifted(block, {a: 1, b: 1}) - _shifted(block, {a: 1, b: -1})
        mixed.sub_(_shifted(block, {a: -1, b: 1})).add_(_shifted(block, {a: -1, b: -1}))
        found.append(mixed.mul_(slopes[a] * slopes[b] / 4))
    return found


def eigenvalues(zz: Tensor, yy: Tensor, xx: Tensor, zy: Tensor, zx: Tensor, yx: Tensor) -> list[Tensor]:
    """Return the eigenvalues of symmetric 3 × 3 matrices, the largest first (O. K. Smith, 1961)."""
    mean = (zz + yy).add_(xx).mul_(1 / 3)
    a, b, c = zz - mean, yy - mean, xx - mean
    zy2, zx2, yx2 = zy.square(), zx.square(), yx.square()
    radius = a.square().addcmul_(b, b).addcmul_(c, c).add_(zy2, alpha=2).add_(zx2, alpha=2).add_(yx2, alpha=2)
    radius = radius.mul_(1 / 6).sqrt_()
    determinant = (b * c).sub_(yx2).mul_(a).addcmul_(zy2, c, value=-1).addcmul_(zx2, b, value=-1)
    determinant.addcmul_(zy * zx, yx, value=2)
    cosine = determinant.div_(radius.pow(3).mul_(2).add_(_TINY)).clamp_(-1, 1)
    angle = cosine.acos_().mul_(1 / 3)
    radius.mul_(2)
    largest = torch.addcmul(mean, radius, angle.cos())
    smallest = torch.addcmul(mean, radius, angle.add_(2 * math.pi / 3).cos_())
    return [largest, mean.mul_(3).sub_(largest).sub_(smallest), smallest]


def _halved(block: Tensor, halves: tuple[int, ...]) -> Tensor:
    """Return the means of two neighbours along the axes that are halved."""
    for axis, half in zip(AXES, halves, strict=True):
        if half == 2:
            even = (slice(None),) * axis + (slice(0, None, 2),)
            odd = (slice(None),) * axis + (slice(1, None, 2),)
            block = (block[even] + block[odd]).mul_(0.5)
    return block


def _doubled(block: Tensor, halves: tuple[int, ...], out: Tensor) -> None:
    """Write a block at twice the resolution, interpolated linearly; one voxel around it is used up."""
    axes = [axis for axis, half in zip(AXES, halves, strict=True) if half == 2]
    if not axes:
        out.copy_(block)
    for axis in reversed(axes):
        n = block.shape[axis] - 2
        middle = block.narrow(axis, 1, n)
        shape = (*block.shape[:axis], 2 * n, *block.shape[axis + 1 :])
        fine = out if axis == axes[0] else block.new_empty(shape)
        for side, start in ((0, 0), (1, 2)):
            target = fine[(slice(None),) * axis + (slice(side, None, 2),)]
            torch.lerp(middle, block.narrow(axis, start, n), 0.25, out=target)
        block = fine


def _shifted(block: Tensor, shifts: dict[int, int]) -> Tensor:
    """Return a block without its outermost voxels, moved by a voxel along some axes."""
    for axis, dim in enumerate(AXES):
        block = block.narrow(dim, 1 + shifts.get(axis, 0), block.shape[dim] - 2)
    return block


def cropped(block: Tensor, margin: tuple[int, ...]) -> Tensor:
    """Return a block (C, Z, Y, X) without some voxels on each side."""
    for axis, m in zip(AXES, margin, strict=True):
        block = block.narrow(axis, m, block.shape[axis] - 2 * m)
    return block


def _minus(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a - b for a, b in zip(one, other, strict=True))


def _one(halves: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(half - 1 for half in halves)
