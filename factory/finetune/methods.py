"""What a training is asked for: its method and configuration, and what can be wrong with them.

Found before torch is imported: a typing error must not cost ten seconds.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.config import check_places, parse_config, read_config
from factory.errors import ConfigError, ModelError
from factory.finetune.config import MethodConfig
from factory.finetune.images import choose_images, looks_at_no_label
from factory.method import METHODS, find_method
from factory.models.expert_file import read_notes
from factory.models.folder import read_json
from factory.models.generator import DISTILLED, EMBEDDED, check_revision, find_generator
from factory.real.field import Shown, scale_line
from factory.real.splits import Split, check_dataset

if TYPE_CHECKING:
    from factory.real.dataset import RealDataset

SMALL, LARGE, LARGE_CHANNELS = "cytodiff_small", "cytodiff", 320
"""Presets, and the channels with which the U-Nets of Stable Diffusion begin."""
METHOD = "method"
DEFAULT = "text"


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


def load_training(source: str | Path, overrides: Sequence[str] = ()) -> Any:
    """Return the configuration of a training, a `MethodConfig` of the method that it names.

    Raises:
        ConfigError: a method that is not trained, or what `load_config` refuses.
    """
    stored = read_config(source, overrides)
    name = stored.get(METHOD, DEFAULT)
    trained = [known for known in METHODS if find_method(known).configuration({})]
    if name not in trained:
        raise ConfigError(
            f"{source}: unknown method {name!r}", remedy=f"Choose one of {', '.join(trained)}"
        )
    return parse_config(find_method(name).configuration(stored), stored, where=str(source))


def check_training(config: Any, dataset: "RealDataset", split: Split) -> None:
    """Raise where a training could not begin with these images.

    Raises:
        ConfigError: a class that the dataset has not.
        DataError: a split of another dataset, see `choose_images` and `check_images`.
    """
    check_dataset(split, dataset.fingerprint)
    config.check_images(dataset, choose_images(dataset, split, config))


def about_scale(config: Any, dataset: "RealDataset", split: Split) -> list[str]:
    """Return what is said where a base learnt objects of another scale than these images show."""
    if getattr(config, "base", None) is None:
        return []
    base = find_generator(config.base, revision=getattr(config, "revision", None))
    if base.field == Shown():  # nobody measured it
        return []
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    ids = [i for i in split.train if not config.only or labels[i] in config.only]
    if looks_at_no_label(config):
        return []  # sizes are compared within classes
    line = scale_line(dataset.look(base.size_px, ids), base.learnt())
    return [line] if line else []


def check_bases(config: MethodConfig, source: str | Path) -> None:
    """Raise where a file or a generator that a configuration names is not there.

    Raises:
        ConfigError: no file at a path, or a revision of what has none.
        ModelError: see `find_generator`.
    """
    check_places(config, where=str(source))
    if config.expert is not None:
        read_notes(config.expert)
    for name, revision in config.bases():
        check_revision(name, revision)
        base = find_generator(name, revision=revision)
        if DISTILLED in base.manifest:
            raise ConfigError(
                f"base {name!r} was distilled, and knows no more than"
                f" {base.settled['num_inference_steps']} noise levels",
                remedy="Adapt its teacher, and distil what comes out: factory distill GENERATOR",
            )
