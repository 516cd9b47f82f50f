"""How trials and what draws for them share a cluster: each waits for the other."""

from dataclasses import dataclass, replace

from factory.errors import ConfigError
from factory.evaluate.placement import fitting, told_share
from factory.measure.intervals import counted

HALF = 0.5
"""Of a cluster's GPUs draw at most where trials train on the others, by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """GPUs of a sampling actor and of a trial: asked for, or what each takes by itself."""

    actor: float | None = None
    trial: float | None = None
    usual: float = 0.0
    """Of a trial where nobody said: 0 of a learner that gains nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterShare:
    """How many trials run and how many actors draw, and what each of them holds."""

    trials: int
    cpus_per_trial: int
    actors: int
    """Sampling actors; 0: the drawer draws itself, while trials wait."""
    gpus_per_actor: float = 0.0
    gpus_per_trial: float = 0.0

    def __str__(self) -> str:
        """Return how it is told."""
        trials = f"{counted(self.trials, 'trial')} at once"
        if self.gpus_per_trial:
            trials += f", with {told_share(self.gpus_per_trial)} each"
        if not self.actors:
            return trials
        return f"{trials}; images are drawn on {self.actors} x {told_share(self.gpus_per_actor)}"


def planned(cores: int, gpus: float, wishes: Wishes) -> ClusterShare:
    """Return the shares of a cluster of so many cores, which has or could start so many GPUs.

    An actor on a GPU needs a core, with its encoding; trials that held them all would wait for ever
    for what it draws, and so they would where they held all GPUs. With a single core a trial
    reserves none. What nobody asked for gives way to what was asked for.

    Raises:
        ConfigError: what is asked for of both does not fit at once, an actor and a trial.
    """
    cores = max(1, cores)
    actor = (1.0 if gpus >= 1 else 0.0) if wishes.actor is None else wishes.actor
    trial = (wishes.usual if gpus >= 1 else 0.0) if wishes.trial is None else wishes.trial
    if actor and trial and actor + trial > gpus:
        actor, trial = _narrowed(actor, trial, gpus, wishes)
    if not actor:
        most = min(cores, fitting(gpus, trial)) if trial else cores
        return ClusterShare(trials=max(1, most), cpus_per_trial=1, actors=0, gpus_per_trial=trial)
    free = max(1, cores - 1)
    actors = max(1, min(free, fitting(gpus * HALF if trial else gpus, actor)))
    found = ClusterShare(
        trials=max(1, cores - actors),
        cpus_per_trial=int(cores > actors),
        actors=actors,
        gpus_per_actor=actor,
        gpus_per_trial=trial,
    )
    if not trial:
        return found
    room = fitting(gpus - actors * actor, trial)
    return replace(found, trials=max(1, min(found.trials, room)))


def _narrowed(actor: float, trial: float, gpus: float, wishes: Wishes) -> tuple[float, float]:
    """Return the GPUs of an actor and a trial where what each would take does not fit."""
    if wishes.actor is None and wishes.trial is None:
        return HALF, min(trial, HALF)
    if wishes.trial is None:
        return actor, 0.0
    if wishes.actor is None:
        return max(0.0, min(HALF, gpus - trial)), trial
    raise ConfigError(
        f"generate.stream.gpus_per_actor {actor:g} and gpus_per_training {trial:g} do not fit at"
        f" once into {told_share(gpus)}: trials would wait for ever for what is drawn",
        remedy="Ask for smaller shares, such as 0.5 and 0.25, or set gpus_per_training to 0",
    )
