"""Judges an autoencoder by a round trip: what a classifier of real images makes of its images.

A generator draws in its autoencoder's hand. A head trained on such images and shown real ones
meets every texture that the autoencoder smooths away, so the trip is judged in both directions.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from factory.digest import digest, digest_bytes
from factory.errors import DataError
from factory.finetune.latents import to_signed
from factory.measure.cache import NOTHING_KEPT, ArrayCache
from factory.measure.distances import kid
from factory.measure.features import Features, FeatureSpace, Images
from factory.measure.intervals import Estimate, proportion
from factory.models.autoencoder import Autoencoder
from factory.real.dataset import RealDataset

FEATURE_NORM = 10.0
"""Length of every feature vector before the head: C of 1 then suits a few hundred rows."""
BANDS = ((0.0, 0.125), (0.125, 0.25), (0.25, 0.375), (0.375, 0.5))
"""Of spatial frequency, in cycles per pixel; 0.5 is the finest that pixels can show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImages:
    """Real images (N, S, S, 3) uint8 and the class of each."""

    images: Images
    labels: Sequence[str]

    @property
    def digest(self) -> str:
        """Names pixels and labels."""
        return digest([digest_bytes(self.images.tobytes()), list(self.labels)])


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoencoderReport:
    """What a round trip does to images that the autoencoder never saw."""

    psnr_db: float
    """Mean over the unseen images."""
    kept_energy: Mapping[str, float]
    """Band of cycles per pixel -> energy of the returned images by that of the real ones."""
    named: Mapping[str, Estimate]
    """'real -> returned': accuracy of a head trained on real images, shown returned ones."""
    kid: Estimate
    """Of returned unseen images to real training images ..."""
    kid_floor: Estimate
    """... and of the same unseen images as they are."""


def take_balanced(
    dataset: RealDataset, ids: Sequence[str], per_class: int, *, size_px: int
) -> LabelledImages:
    """Return `per_class` of the images `ids` of every class; which ones follows from the ids.

    Raises:
        DataError: a class with fewer.
    """
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    chosen: list[str] = []
    for name in sorted({labels[i] for i in ids}):
        members = sorted((i for i in ids if labels[i] == name), key=lambda i: digest(["trip", i]))
        if len(members) < per_class:
            raise DataError(
                f"class {name!r} has {len(members)} images here, {per_class} were asked",
                remedy="Ask for fewer per class, or hold out more",
            )
        chosen += members[:per_class]
    return LabelledImages(images=dataset.array(size_px, chosen), labels=[labels[i] for i in chosen])


@torch.inference_mode()
def round_trip(autoencoder: Autoencoder, images: Images, *, batch_size: int = 8) -> Images:
    """Return decode(encode(image)) of images (N, S, S, 3) uint8, the posterior's mode between."""
    parts = []
    for chunk in torch.split(torch.from_numpy(images), batch_size):
        latents = autoencoder.encode(to_signed(chunk)).latent_dist.mode()
        decoded = autoencoder.decode(latents).sample.clamp(-1, 1)
        parts.append(((decoded + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1))
    return torch.cat(parts).numpy()


def judge_autoencoder(
    autoencoder: Autoencoder,
    train: LabelledImages,
    unseen: LabelledImages,
    space: FeatureSpace,
    *,
    cache: ArrayCache = NOTHING_KEPT,
) -> AutoencoderReport:
    """Send both sets through the autoencoder and compare heads trained and tested on either side.

    Args:
        autoencoder: in eval mode, float32.
        train: images that the heads learn from.
        unseen: images that neither the autoencoder nor the heads saw.
        space: the frozen network below the heads.
        cache: keeps the features of real images.

    Raises:
        DataError: fewer than two classes, or too few images for a KID.
    """
    if len(set(train.labels)) < 2:
        raise DataError("a head needs two classes or more", remedy="Give images of more classes")
    sides = {
        "real": (_features(train, space, cache), _features(unseen, space, cache)),
        "returned": (
            space.extract(round_trip(autoencoder, train.images)),
            space.extract(returned := round_trip(autoencoder, unseen.images)),
        ),
    }
    named = {}
    for learnt, (features, _) in sides.items():
        head = LogisticRegression(C=1.0, max_iter=3000).fit(_scaled(features), train.labels)
        for shown, (_, asked) in sides.items():
            hits = head.predict(_scaled(asked)) == np.array(unseen.labels)
            named[f"{learnt} -> {shown}"] = proportion(int(hits.sum()), len(hits))
    return AutoencoderReport(
        psnr_db=psnr_db(returned, unseen.images),
        kept_energy=kept_energy(returned, unseen.images),
        named=named,
        kid=kid(sides["returned"][1], sides["real"][0]),
        kid_floor=kid(sides["real"][1], sides["real"][0]),
    )


def psnr_db(returned: Images, images: Images) -> float:
    """Return the mean over images (N, S, S, 3) uint8 of the peak signal-to-noise ratio in dB."""
    error = ((returned.astype(np.float64) - images) ** 2).mean((1, 2, 3))
    return float((-10 * np.log10(np.maximum(error, 1e-12) / 255**2)).mean())


def kept_energy(returned: Images, images: Images) -> dict[str, float]:
    """Return the energy of `returned` by that of `images`, band by band: 1 keeps all texture.

    Of grey values under a Hann window, so that borders are no texture.
    """
    ours, real = _spectrum(returned), _spectrum(images)
    rows, columns = (np.fft.fftfreq(images.shape[1]), np.fft.rfftfreq(images.shape[2]))
    radius = np.hypot(rows[:, None], columns[None])
    found = {}
    for low, high in BANDS:
        band = (radius >= low) & (radius < high)
        found[f"{low:g} to {high:g}"] = float(ours[band].sum() / max(real[band].sum(), 1e-12))
    return found


def to_markdown(report: AutoencoderReport) -> str:
    """Return all figures as a table."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: AutoencoderReport) -> Iterator[str]:
    yield "| figure | value |"
    yield "| --- | --- |"
    yield f"| PSNR | {report.psnr_db:.1f} dB |"
    for band, share in report.kept_energy.items():
        yield f"| energy kept, {band} cycles per pixel | {share:.2f} |"
    for way, accuracy in report.named.items():
        yield f"| head names the class, {way} | {accuracy} (n {accuracy.n}) |"
    for name, found in (("returned", report.kid), ("as they are: the floor", report.kid_floor)):
        thousand = f"{1000 * found.value:.1f} [{1000 * found.low:.1f}, {1000 * found.high:.1f}]"
        yield f"| KID x 1000, unseen images {name} | {thousand} |"


def _spectrum(images: Images) -> NDArray[np.float64]:
    grey = images.astype(np.float64).mean(-1)
    window = np.outer(np.hanning(images.shape[1]), np.hanning(images.shape[2]))
    spectrum: NDArray[np.float64] = (np.abs(np.fft.rfft2(grey * window)) ** 2).mean(0)
    return spectrum


def _features(part: LabelledImages, space: FeatureSpace, cache: ArrayCache) -> Features:
    key = ["features", space.digest, part.digest]
    return cache.get(key, lambda: space.extract(part.images))


def _scaled(features: Features) -> Features:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    scaled: Features = FEATURE_NORM * features / np.maximum(lengths, 1e-12)
    return scaled
