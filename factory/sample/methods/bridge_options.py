"""Options of the bridge: between which domains, in how many steps, how deep, how labelled."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from factory.sample.method_options import MethodOptions


class BridgeOptions(MethodOptions):
    """A recipe holds them with its one pair, and with the prompt that its source is inverted under.

    Names: `depths.POLICIES`, `measures.MEASURES` and 'expert', `soft_labels.LABELS`.
    """

    pairs: tuple[tuple[str, str], ...] = ()
    """(source, target) domains; empty: every ordered pair that the generator has."""
    depths: int = Field(10, ge=1, le=1000)
    """m, images of each source and direction, from nearly the source to wholly migrated."""
    policy: Literal["uniform", "adaptive", "adaptive_full", "reversed"] = "adaptive"
    """How deep they are inverted; 'reversed' is the original's rule, which draws no shallow one."""
    measure: Literal["centre_row", "radial", "expert"] = "radial"
    """The feature whose way adaptive depths and 'feature' labels follow."""
    soft_label: Literal["depth", "feature", "expert"] = "feature"
    """What says how far an image has come: depth, feature's range, an expert's probability."""
    corrections: int = Field(0, ge=0, le=10)
    """Fixed-point iterations of an inversion step: better round trips, as many more evaluations."""
    min_psnr_db: float | None = Field(None, gt=0)
    """Reject the images of a source that its own generator cannot bring back from full depth to so
    much PSNR against the autoencoder's reconstruction; null: not tried, which saves N evaluations
    per source."""
    slots: int | None = Field(None, ge=1)
    """Images in a denoising forward; null: half of the batch size."""
    away_from_source: bool = False
    """Guide away from the prompt of the source's domain, instead of from the job's negative_prompt:
    a stronger pull into the target where both are drawn by one network."""
    source_prompt: str | None = None
    """Text under which sources are inverted; null: the prompt of their domain."""
    expert: str | None = None
    """Folder of an expert, for the measure or label of that name ..."""
    expert_id: str | None = None
    """... and the digest of its weights; filled in by the plan."""
    labels: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    """Domain -> labels of the real images that belong to it; by default the one of its own name."""

    @property
    def shows_references(self) -> bool:
        """A bridge starts from a real image."""
        return True

    @property
    def asks_expert(self) -> bool:
        """Whether an expert is needed."""
        return "expert" in (self.measure, self.soft_label)

    @model_validator(mode="after")
    def _whole(self) -> "BridgeOptions":
        if self.asks_expert and self.expert is None:
            raise ValueError("measure or soft_label 'expert' needs expert: FOLDER")
        if loops := [pair for pair in self.pairs if pair[0] == pair[1]]:
            raise ValueError(f"pairs: {loops[0][0]!r} leads to itself")
        if len(set(self.pairs)) < len(self.pairs):
            raise ValueError("pairs: one is named twice")
        return self
