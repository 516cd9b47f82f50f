"""The methods that `factory finetune` trains, chosen by the key `method` of a configuration.

What can be wrong with a configuration, its images and its paths is found here, before torch is
imported: a typing error must not cost ten seconds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.config import Frozen, check_places, parse_config, read_config
from factory.errors import ConfigError, ModelError
from factory.finetune.class_config import ClassConditionalConfig
from factory.finetune.config import FinetuneConfig
from factory.finetune.pairs_config import PairsConfig
from factory.finetune.plan import check_masks, choose_images
from factory.models.expert_file import read_notes
from factory.models.folder import read_json
from factory.models.generator import EMBEDDED, Generator, check_revision, find_generator
from factory.real.field import Shown, scale_line
from factory.real.leaks import check_apart
from factory.real.splits import check_dataset

if TYPE_CHECKING:
    from factory.real.dataset import RealDataset
    from factory.real.splits import Split

SMALL, LARGE, LARGE_CHANNELS = "cytodiff_small", "cytodiff", 320
"""Presets, and the channels with which the U-Nets of Stable Diffusion begin."""
METHOD = "method"
DEFAULT = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What is done with a method's configuration, in this order.

    Args:
        prepare: (config, dataset, split, output) to a plan that workers can read; `tell` gets lines
            to show where that takes its time.
        here: trains the plan in this process; `tell` gets lines to show.
        on_ray: trains the plan on the cluster.
        needs: what a worker needs in memory, as a line to show before; empty: not known.
    """

    prepare: Callable[..., Any]
    here: Callable[..., Generator]
    on_ray: Callable[[Any], Generator]
    needs: Callable[[Any], str] = lambda _plan: ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method: the model of its YAML, and what imports its training."""

    kind: type[Frozen]
    training: Callable[[], Training]


def _silent(prepare: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `prepare` that is quick enough to say nothing."""
    return lambda *given, **_: prepare(*given)


def _text() -> Training:
    from factory.finetune import run
    from factory.finetune.memory import told_needs

    return Training(
        prepare=run.prepare,
        here=run.finetune_here,
        on_ray=run.finetune_on_ray,
        needs=told_needs,
    )


def _pairs() -> Training:
    from factory.finetune import pairs_run

    return Training(
        prepare=_silent(pairs_run.prepare),
        here=pairs_run.finetune_here,
        on_ray=pairs_run.finetune_on_ray,
    )


def _class_conditional() -> Training:
    from factory.finetune import class_prepare, class_run

    return Training(
        prepare=_silent(class_prepare.prepare),
        here=class_run.finetune_here,
        on_ray=class_run.finetune_on_ray,
    )


METHODS: Mapping[str, Method] = {
    "text": Method(kind=FinetuneConfig, training=_text),
    "pairs": Method(kind=PairsConfig, training=_pairs),
    "class_conditional": Method(kind=ClassConditionalConfig, training=_class_conditional),
}


def preset_for(overrides: Sequence[str], tell: Callable[[str], object] = lambda _line: None) -> str:
    """Return, and tell, the preset of few-shot LoRA that fits the base which the overrides name.

    CytoDiff's own numbers are made for a large base; on wbc-base they lose to those of
    `cytodiff_small` (KID x 1000 of 314 against 30, docs/studies/cytodiff.md).
    """
    base = Path(str(read_config(SMALL, overrides).get("base")))
    folder = EMBEDDED.get(str(base), base.expanduser())
    try:
        channels = read_json(folder / "unet" / "config.json").get("block_out_channels", ())
    except ModelError:  # a hub's, or not there, which is said later
        channels = (LARGE_CHANNELS,)
    chosen = LARGE if max(channels, default=0) >= LARGE_CHANNELS else SMALL
    tell(f"configuration {chosen}, which fits base {base} (--config chooses another)")
    return chosen


def load_training(source: str | Path, overrides: Sequence[str] = ()) -> tuple[Method, Any]:
    """Return the method that a configuration names and the configuration itself.

    Raises:
        ConfigError: an unknown method, or what `load_config` refuses.
    """
    stored = read_config(source, overrides)
    name = stored.get(METHOD, DEFAULT)
    if name not in METHODS:
        raise ConfigError(
            f"{source}: unknown method {name!r}", remedy=f"Choose one of {', '.join(METHODS)}"
        )
    config = parse_config(METHODS[name].kind, stored, where=str(source))
    return METHODS[name], config


def check_training(config: Any, dataset: "RealDataset", split: "Split") -> None:
    """Raise where a training could not begin with these images.

    Raises:
        ConfigError: a class that the dataset has not.
        DataError: a split of another dataset, see `choose_images`.
    """
    check_dataset(split, dataset.fingerprint)
    if unknown := sorted({*getattr(config, "classes", ()), *config.only} - set(dataset.labels)):
        raise ConfigError(
            f"class {unknown[0]!r} is not in the dataset",
            remedy=f"Its classes are {', '.join(sorted(set(dataset.labels)))}",
        )
    if isinstance(config, PairsConfig):
        check_apart(dataset, split)
        check_masks(dataset, split, config)
    else:
        choose_images(dataset, split, config)


def about_scale(config: Any, dataset: "RealDataset", split: "Split") -> list[str]:
    """Return what is said where a base learnt objects of another scale than these images show."""
    if isinstance(config, ClassConditionalConfig) or config.base is None:
        return []
    base = find_generator(config.base, revision=getattr(config, "revision", None))
    if base.field == Shown():  # nobody measured it
        return []
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    ids = [i for i in split.train if not config.only or labels[i] in config.only]
    line = scale_line(dataset.look(base.size_px, ids), base.learnt())
    return [line] if line else []


def check_bases(config: Any, source: str | Path) -> None:
    """Raise where a file or a generator that a configuration names is not there.

    Raises:
        ConfigError: no file at a path, or a revision of what has none.
        ModelError: see `find_generator`.
    """
    check_places(config, where=str(source))
    if isinstance(config, FinetuneConfig) and config.expert is not None:
        read_notes(config.expert)
    for name, revision in _bases(config):
        check_revision(name, revision)
        find_generator(name, revision=revision)


def _bases(config: Any) -> Iterator[tuple[str, str | None]]:
    if isinstance(config, FinetuneConfig):
        yield config.base, config.revision
    elif isinstance(config, ClassConditionalConfig):
        if config.autoencoder.base is not None:
            yield config.autoencoder.base, config.autoencoder.revision
    else:
        yield from ((name, None) for name in (config.base, config.autoencoder) if name is not None)
