"""What a network is told beside its noisy latents, and the null condition that says nothing."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from factory.errors import ConfigError, DataError

CONDITIONINGS = ("context_class", "class", "text", "concat")
NULLS = ("learned", "zero")


class Condition(nn.Module):
    """One kind of condition, with a null that takes its place wherever it is absent.

    | conditioning  | given                  | returned                        |
    |---------------|------------------------|---------------------------------|
    | context_class | labels (B,)            | (B, 1, width), one token        |
    | class         | labels (B,)            | (B, width), for the time vector |
    | text          | embeddings (B, T, width) | the same                      |
    | concat        | maps (B, width, h, w)  | the same, for the input         |

    The null is one vector of `width` values, learned from zero on or zero for good; it stands at
    every token of a text and at every place of a map.
    """

    def __init__(self, conditioning: str, *, width: int, num_classes: int, null: str) -> None:
        """`num_classes` counts only where labels are given.

        Raises:
            ConfigError: an unknown conditioning or null, no classes, or no width.
        """
        super().__init__()
        _one_of(CONDITIONINGS, conditioning, "conditioning")
        _one_of(NULLS, null, "null_condition")
        labelled = conditioning in ("context_class", "class")
        if labelled and num_classes < 1:
            raise ConfigError(
                f"conditioning {conditioning!r} has no classes", remedy="Give class_names"
            )
        if width < 1:
            raise ConfigError(
                f"conditioning {conditioning!r} has no channels",
                remedy="Give condition_channels ('concat') or context_dim, 1 or more",
            )
        self.conditioning = conditioning
        self.embedding = nn.Embedding(num_classes, width) if labelled else None
        self.null = nn.Parameter(torch.zeros(width)) if null == "learned" else None

    def forward(self, given: Tensor, present: Tensor | None = None) -> Tensor:
        """Return the condition, the null where `present` (B,), bool, is False; None: all are."""
        values = given if self.embedding is None else self.embedding(given)
        if self.conditioning == "context_class":
            values = values[:, None]
        if present is None:
            return values
        rows = present.view(-1, *[1] * (values.ndim - 1))
        return torch.where(rows, values, 0.0 if self.null is None else self._null(values))

    def _null(self, values: Tensor) -> Tensor:
        """Return the null in the type of `values`, its width where theirs is."""
        assert self.null is not None  # noqa: S101 -- for mypy; the caller has asked
        null = self.null.to(values.dtype)
        return null[:, None, None] if self.conditioning == "concat" else null


def keep_conditions(batch_size: int, *, dropout: float = 0.2, generator: torch.Generator) -> Tensor:
    """Return (batch_size,) bools, each False with probability `dropout`.

    Where False, a training step gives the null condition: classifier-free guidance needs a network
    that knows both (J. Ho and T. Salimans, Classifier-Free Diffusion Guidance, 2022).
    """
    return torch.rand(batch_size, generator=generator) >= dropout


def labels_of(names: Sequence[str], class_names: Sequence[str]) -> Tensor:
    """Return (len(names),) int64 positions in `class_names`.

    Raises:
        ConfigError: a name that is not among them.
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    if unknown := [name for name in names if name not in numbers]:
        raise ConfigError(
            f"unknown class {unknown[0]!r}", remedy=f"Choose from {', '.join(class_names)}"
        )
    return torch.tensor([numbers[name] for name in names])


def mask_planes(masks: Tensor, values: Sequence[int], *, side: int) -> Tensor:
    """Return (B, V, side, side) float32: the share of each value in each area of masks (B, S, S).

    Shares, not the nearest pixel: an area at a border is of both classes.

    Raises:
        DataError: a value that is not among `values`.
    """
    _known_values(masks, values)
    planes = torch.stack([masks == value for value in values], dim=1).float()
    return F.interpolate(planes, (side, side), mode="area")


def mask_classes(masks: Tensor, values: Sequence[int]) -> Tensor:
    """Return masks (B, S, S) uint8 with the place of each value in `values`: class indices.

    Raises:
        DataError: a value that is not among `values`.
    """
    _known_values(masks, values)
    return torch.stack([masks == value for value in values]).to(torch.uint8).argmax(0).byte()


def _known_values(masks: Tensor, values: Sequence[int]) -> None:
    if odd := sorted(set(torch.unique(masks).tolist()) - set(values)):
        raise DataError(
            f"a mask holds the value {odd[0]}, the network knows {', '.join(map(str, values))}",
            remedy="Give masks with the values of those it was trained on",
        )


def _one_of(known: Sequence[str], value: str, key: str) -> None:
    if value not in known:
        raise ConfigError(f"unknown {key} {value!r}", remedy=f"Choose one of {', '.join(known)}")
