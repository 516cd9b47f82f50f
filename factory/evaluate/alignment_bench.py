"""What images drawn for an alignment ablation are measured by, and the figures of one set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from factory.digest import digest_bytes
from factory.evaluate.generation_accuracy import (
    GenerationAccuracy,
    expert_names,
    generation_accuracy,
)
from factory.measure.cache import ArrayCache
from factory.measure.distances import frechet_distance, kid
from factory.measure.diversity import diversity_by_class, mean_diversity
from factory.measure.features import TURNS, Features, FeatureSpace, Images
from factory.measure.intervals import Estimate
from factory.measure.judge import Judge, fit_judge
from factory.measure.real_features import RealPart, real_part
from factory.models.experts import Expert
from factory.real.dataset import RealDataset
from factory.real.splits import Split, check_dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFigures:
    """One set of images, as many of each class.

    `expert` and `judge`: accuracy by the expert of the alignment (circular) and by the independent
    judge; None where no class was asked for. `kid` and `frechet`: to the train part. `diversity`:
    the classes' mean of 1 - SSIM.
    """

    name: str
    num_images: int
    expert: GenerationAccuracy | None
    judge: GenerationAccuracy | None
    kid: Estimate
    frechet: float
    diversity: Estimate | None
    diversity_by_class: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The expert, a judge of another architecture fitted to other images, and the train part."""

    expert: Expert
    judge: Judge
    judge_space: FeatureSpace
    space: FeatureSpace
    training: RealPart
    test: RealPart
    dataset: RealDataset
    size_px: int
    cache: ArrayCache

    def measure(self, name: str, images: Images, labels: Sequence[str] | None) -> SetFigures:
        """Return the figures of images (N, S, S, 3) drawn for `labels`; None: for none of them."""
        features = self.upright(images, self.space)
        accuracy: dict[str, GenerationAccuracy | None] = {"expert": None, "judge": None}
        diversity: dict[str, Estimate] = {}
        if labels is not None:
            seen = self.judge.names(self.upright(images, self.judge_space)[None])
            accuracy["judge"] = generation_accuracy(seen, labels)
            accuracy["expert"] = generation_accuracy(expert_names(self.expert, images), labels)
            diversity = diversity_by_class(images, labels)
        return SetFigures(
            name=name,
            num_images=len(images),
            kid=kid(features, self.training.turns[0]),
            frechet=frechet_distance(features, self.training.turns[0]),
            diversity=mean_diversity(diversity) if diversity else None,
            diversity_by_class=diversity,
            **accuracy,
        )

    def floor(self, per_class: int) -> SetFigures:
        """Return the figures of unseen real images (test part) in the place of drawn ones."""
        chosen = self.test.balanced(per_class)
        images = self.dataset.array(self.size_px, [self.test.ids[i] for i in chosen])
        return self.measure("real, unseen", images, [self.test.labels[i] for i in chosen])

    def upright(self, images: Images, space: FeatureSpace) -> Features:
        """Return the features (N, D) of the images as they are, kept by their digest."""
        key = ["features", space.digest, digest_bytes(images.tobytes()), list(images.shape), 0]
        return self.cache.get(key, lambda: space.extract(images))


def open_bench(
    dataset: RealDataset,
    split: Split,
    expert: Expert,
    *,
    size_px: int,
    space: FeatureSpace,
    judge_space: FeatureSpace,
    cache: ArrayCache,
) -> Bench:
    """Return the bench; the judge is fitted to the val part, which no generator and expert saw.

    Args:
        dataset: the real images.
        split: of `dataset`.
        expert: that of the alignment.
        size_px: side of the drawn images; real ones are shown at it.
        space: in which distances are measured.
        judge_space: what the independent judge sees: of another architecture than the expert's.
        cache: keeps features.

    Raises:
        DataError: a split of another dataset, or a judge of fewer than two classes.
    """
    check_dataset(split, dataset.fingerprint)

    def part(ids: Sequence[str], by: FeatureSpace, num_turns: int) -> RealPart:
        return real_part(dataset, ids, size_px=size_px, space=by, num_turns=num_turns, cache=cache)

    known = part(split.val, judge_space, TURNS // 2)  # the four quarter turns
    return Bench(
        expert=expert,
        judge=fit_judge(known.turns, known.labels, cache=cache),
        judge_space=judge_space,
        space=space,
        training=part(split.train, space, 1),
        test=part(split.test, space, 1),
        dataset=dataset,
        size_px=size_px,
        cache=cache,
    )


def judged_real(bench: Bench) -> Mapping[str, GenerationAccuracy]:
    """Return how well expert and judge do on the whole test part: the ceiling of their figures."""
    images = bench.dataset.array(bench.size_px, list(bench.test.ids))
    seen = bench.judge.names(np.expand_dims(bench.upright(images, bench.judge_space), 0))
    return {
        "expert": generation_accuracy(expert_names(bench.expert, images), bench.test.labels),
        "judge": generation_accuracy(seen, bench.test.labels),
    }
