"""The methods that `factory finetune` trains, chosen by the key `method` of a configuration."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.config import Frozen, parse_config, read_config
from factory.errors import ConfigError
from factory.finetune import class_prepare, class_run, pairs_run, run
from factory.finetune.class_config import ClassConditionalConfig
from factory.finetune.config import FinetuneConfig
from factory.finetune.memory import told_needs
from factory.finetune.pairs_config import PairsConfig
from factory.models.generator import Generator

METHOD = "method"
DEFAULT = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A method's configuration and what is done with it, in this order.

    Args:
        kind: the model of its YAML.
        prepare: (config, dataset, split, output) to a plan that workers can read; `tell` gets lines
            to show where that takes its time.
        here: trains the plan in this process; `tell` gets lines to show.
        on_ray: trains the plan on the cluster.
        needs: what a worker needs in memory, as a line to show before; empty: not known.
    """

    kind: type[Frozen]
    prepare: Callable[..., Any]
    here: Callable[..., Generator]
    on_ray: Callable[[Any], Generator]
    needs: Callable[[Any], str] = lambda _plan: ""


def _silent(prepare: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `prepare` that is quick enough to say nothing."""
    return lambda *given, **_: prepare(*given)


METHODS: Mapping[str, Training] = {
    "text": Training(
        kind=FinetuneConfig,
        prepare=run.prepare,
        here=run.finetune_here,
        on_ray=run.finetune_on_ray,
        needs=told_needs,
    ),
    "pairs": Training(
        kind=PairsConfig,
        prepare=_silent(pairs_run.prepare),
        here=pairs_run.finetune_here,
        on_ray=pairs_run.finetune_on_ray,
    ),
    "class_conditional": Training(
        kind=ClassConditionalConfig,
        prepare=_silent(class_prepare.prepare),
        here=class_run.finetune_here,
        on_ray=class_run.finetune_on_ray,
    ),
}


def load_training(source: str | Path, overrides: Sequence[str] = ()) -> tuple[Training, Any]:
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
    return METHODS[name], parse_config(METHODS[name].kind, stored, where=str(source))
