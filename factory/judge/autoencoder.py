"""What a generator's autoencoder alone does to real images: all it draws goes through its hands."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from factory.arrays import Images
from factory.errors import ModelError
from factory.finetune.latents import to_signed
from factory.models.autoencoder import Autoencoder
from factory.models.domains import members_of
from factory.models.generator import Generator
from factory.models.pipeline import load_pipeline

BANDS = ((0.0, 0.125), (0.125, 0.25), (0.25, 0.375), (0.375, 0.5))
"""Of spatial frequency, in cycles per pixel; 0.5 is the finest that pixels can show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoencoderFigures:
    """What a round trip does to images that the autoencoder never saw."""

    psnr_db: float
    """Mean over the unseen images."""
    kept_energy: Mapping[str, float]
    """Band of cycles per pixel -> energy of the returned images by that of the real ones."""


def autoencoder_of(generator: Generator) -> Autoencoder:
    """Return the autoencoder through which a generator draws.

    Raises:
        ModelError: it draws pixels, or cannot be loaded.
    """
    own = (members_of(generator) or [generator])[0]
    found = getattr(load_pipeline(own.base() if own.adapters else own), "vae", None)
    if found is None:
        raise ModelError(
            f"generator {generator.name!r} draws pixels, without an autoencoder",
            remedy="Leave out autoencoder: true",
        )
    autoencoder: Autoencoder = found
    return autoencoder


@torch.inference_mode()
def round_trip(autoencoder: Autoencoder, images: Images, *, batch_size: int = 8) -> Images:
    """Return decode(encode(image)) of images (N, S, S, 3) uint8, the posterior's mode between."""
    parts = []
    for chunk in torch.split(torch.from_numpy(images), batch_size):
        latents = autoencoder.encode(to_signed(chunk)).latent_dist.mode()
        decoded = autoencoder.decode(latents).sample.clamp(-1, 1)
        parts.append(((decoded + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1))
    return torch.cat(parts).numpy()


def autoencoder_figures(returned: Images, images: Images) -> AutoencoderFigures:
    """Return the figures of images (N, S, S, 3) uint8 that came back."""
    return AutoencoderFigures(
        psnr_db=psnr_db(returned, images), kept_energy=kept_energy(returned, images)
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


def _spectrum(images: Images) -> NDArray[np.float64]:
    grey = images.astype(np.float64).mean(-1)
    window = np.outer(np.hanning(images.shape[1]), np.hanning(images.shape[2]))
    spectrum: NDArray[np.float64] = (np.abs(np.fft.rfft2(grey * window)) ** 2).mean(0)
    return spectrum
