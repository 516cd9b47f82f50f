"""Which recorders a run gets: what the environment asks for, and Ray's metrics where Ray is."""

from collections.abc import Mapping

from factory.monitor.log import LogRecorder
from factory.monitor.recorder import Recorder, Several


def recorder_for(environ: Mapping[str, str]) -> Recorder:
    """Return the recorder of a run of this process.

    Raises:
        ConfigError: FACTORY_PRICE_PER_HOUR is no price, or OPENLINEAGE_URL is set and the package
            that sends events is missing.
    """
    import ray

    from factory.monitor.lineage import lineage_recorder
    from factory.monitor.on_ray import RayRecorder, price_per_hour

    price = price_per_hour(environ)
    chosen: list[Recorder] = [LogRecorder()]
    if ray.is_initialized():
        chosen.append(RayRecorder(price_per_hour=price))
    if environ.get("OPENLINEAGE_URL"):
        chosen.append(lineage_recorder(environ))
    return Several(chosen)
