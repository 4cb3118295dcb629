"""Augmentation of crops by albumentations: one geometry for image and labels; labels are never interpolated."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DependencyError
from .volume import UNLABELLED

_FLIP_NEIGHBOURS = 0.5  # chance that the slices of a 2.5D crop come in the other order


class Augmentation:
    """Random changes of a crop, the same for the same seed.

    Args:
        names: What to do, out of ``settings.AUGMENTATIONS``.
        slices: Neighbouring slices that the channels of a crop hold; their order is flipped too.
    """

    def __init__(self, names: tuple[str, ...], *, slices: int = 1) -> None:
        self._names, self._slices = names, slices
        self._compose = _compose(names)
        self._rng = np.random.default_rng(0)

    def seed(self, seed: int) -> None:
        """Begin the sequence of random changes anew."""
        self._compose.set_random_seed(seed)
        self._rng = np.random.default_rng(seed)

    def __call__(
        self, image: NDArray[np.float32], labels: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Change a square crop: image (H, W, C) with values 0 … 1, labels (H, W); return new ones."""
        if "flips" in self._names and self._slices > 1 and self._rng.random() < _FLIP_NEIGHBOURS:
            by_slice = image.reshape(*image.shape[:2], self._slices, -1)
            image = np.ascontiguousarray(by_slice[:, :, ::-1]).reshape(image.shape)
        changed = self._compose(image=image, mask=labels)
        return changed["image"].reshape(image.shape), changed["mask"]


def _compose(names: tuple[str, ...]) -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask a server for its newest version
    try:
        import albumentations as A
        import cv2
    except ImportError as error:
        raise DependencyError(
            f"albumentations cannot be loaded ({error}).", "Install it: pip install albumentations"
        ) from None
    cv2.setNumThreads(1)  # crops are small, and the network needs the cores
    warp = {"border_mode": cv2.BORDER_REFLECT_101, "mask_interpolation": cv2.INTER_NEAREST, "fill_mask": UNLABELLED}
    known = {
        "flips": [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)],
        "quarter_turns": [A.RandomRotate90(p=0.75)],
        "elastic": [A.ElasticTransform(alpha=40, sigma=6, p=0.1, **warp)],
        "scale": [A.Affine(scale=(0.8, 1.25), p=0.2, **warp)],
        "brightness": [A.RandomBrightnessContrast(brightness_limit=0.15, contrast_limit=0, p=0.2)],
        "contrast": [A.RandomBrightnessContrast(brightness_limit=0, contrast_limit=0.25, p=0.2)],
        "noise": [A.GaussNoise(std_range=(0.01, 0.06), p=0.1)],
        "blur": [A.GaussianBlur(sigma_limit=(0.4, 1.0), blur_limit=0, p=0.05)],
        "gamma": [A.RandomGamma(gamma_limit=(75, 135), p=0.1)],
    }
    return A.Compose([step for name in names for step in known[name]], seed=0)
