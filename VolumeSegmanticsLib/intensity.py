"""Grey-value statistics: measured once over the training images, kept on the card, applied the same at prediction."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .volume import Volume

LOW_PERCENT, HIGH_PERCENT = 0.5, 99.5
_SAMPLES = 2_000_000  # voxels looked at in one volume; enough for percentiles to a thousandth


@dataclass(frozen=True)
class Intensity:
    """For each channel the grey values that become 0 and 1, and mean and deviation of what lies between.

    Attributes:
        low, high: Robust smallest and largest value, in the unit of the image.
        mean, deviation: Of the values after scaling to 0 … 1.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def measure(cls, volumes: Sequence[Volume]) -> Intensity:
        """Measure the statistics over several volumes; NaN and infinities are left out.

        Raises:
            InputError: There is no finite value, or only one in each channel.
        """
        samples = [_sample(volume) for volume in volumes]
        rows = [_statistics(np.concatenate([s[:, c] for s in samples])) for c in range(volumes[0].channels)]
        if all(low == high for low, high, *_ in rows):
            raise InputError(f"The image is constant: every voxel is {rows[0][0]:g}.", "Choose another image.")
        return cls(*map(tuple, zip(*rows, strict=True)))

    def scale(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """Return values (…) or (…, C) scaled to 0 … 1 as float32 of the same shape.

        NaN becomes 0, and so does a channel that was constant.
        """
        exact: type[Any] = np.float32 if np.can_cast(array.dtype, np.float32) else np.float64
        with np.errstate(over="ignore", invalid="ignore"):  # what is too large for the type is 1 all the same
            low, factor = (np.array(v, exact) for v in (self.low, self._factors()))
            if len(self.low) == 1:
                low, factor = low[0], factor[0]
            scaled = array.astype(exact)
            scaled -= low
            scaled *= factor
        np.clip(scaled, 0, 1, out=scaled)
        if array.dtype.kind == "f":
            np.nan_to_num(scaled, copy=False, nan=0.0)
        return scaled.astype(np.float32, copy=False)

    def _factors(self) -> list[float]:
        return [1 / (high - low) if high > low else 0.0 for low, high in zip(self.low, self.high, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Return the statistics as JSON-able values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Intensity:
        """Make the statistics from what ``to_dict`` returned."""
        return cls(**{name: tuple(numbers) for name, numbers in values.items()})

    def remark_on(self, volume: Volume) -> str:
        """Say in a sentence where a volume's grey values lie far from those of training; empty where they do not."""
        own = Intensity.measure([volume])
        for low, high, own_low, own_high in zip(self.low, self.high, own.low, own.high, strict=True):
            overlap = min(high, own_high) - max(low, own_low)
            if overlap < 0.5 * max(high - low, own_high - own_low):
                return (
                    f"The grey values of this image ({own_low:g} to {own_high:g}) differ much from those that the "
                    f"model was trained on ({low:g} to {high:g}): expect a worse result, or train on this image too."
                )
        return ""


def _sample(volume: Volume) -> NDArray[Any]:
    """Return up to ``_SAMPLES`` finite voxels, spread evenly over the volume: (voxels, channels)."""
    shape, steps = np.array(volume.grid.shape), np.ones(3, int)
    while np.prod(-(-shape // steps)) > _SAMPLES:
        steps[np.argmax(shape / steps)] += 1
    array = volume.array[:: steps[0], :: steps[1], :: steps[2]]
    values = array.reshape(-1, volume.channels)
    return values[np.isfinite(values).all(axis=1)] if array.dtype.kind == "f" else values


def _statistics(values: NDArray[Any]) -> tuple[float, float, float, float]:
    """Return low, high, mean and deviation of one channel; low and high are equal where it is constant."""
    if values.size == 0:
        raise InputError("The image holds no number, only NaN.", "Choose another image, or save it again.")
    values = values.astype(np.float64)
    low, high = np.percentile(values, (LOW_PERCENT, HIGH_PERCENT))
    if high <= low:
        low, high = values.min(), values.max()
    scaled = np.clip((values - low) / ((high - low) or 1.0), 0, 1)
    return float(low), float(high), float(scaled.mean()), float(max(scaled.std(), 1e-3))
