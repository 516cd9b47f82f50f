"""Where a run meets Ray: joining a cluster or starting a local one, and saying how if it fails."""

import os
import re
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from factory.config import load_config
from factory.errors import ClusterError, ConfigError
from factory.gate.registry import sections
from factory.sample.config import GenerateConfig
from factory.terminal import say, shown_of_worker

if TYPE_CHECKING:  # Arrow waits until a configuration is right
    from catalog.place import Where
    from factory.models.generator import Generator
    from factory.sample.prepare import Run

KNOCK_SECONDS = 5.0
STARTS = 3
"""Attempts to start a local Ray."""
TOO_BUSY = "timed out during startup"
"""How Ray says that a machine gave it no time to start."""
_LOW = re.compile(r"running low on memory.*?was (\S+) used / (\S+) limit", re.DOTALL)
"""How Ray says that it ended workers, of whatever error of its libraries."""
API_SERVER = "RAY_API_SERVER_ADDRESS"
"""Variable: the dashboard that processes of a Ray ask."""
IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Variable that Ray sets for what it runs as a submitted job."""
RAYS_PRINTER = "ray_print_logs"
PATIENCE = {
    "RAY_health_check_timeout_ms": "300000",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
}
"""Environment of a Ray of this machine alone. After a minute in which a busy machine gave a raylet
no time to answer, Ray declares its only node dead, and the head ends in the middle of its work
(measured: 40 s are survived, 75 s are not). A raylet that has really ended is noticed at once.
Workers of a training take seconds to import what they need, on a busy machine minutes: after one,
Ray Train gives them up and starts others."""


@contextmanager
def ray_session(
    address: str | None = None,
    *,
    show_workers: bool = False,
    tell: Callable[[str], object] = lambda _line: None,
) -> Iterator[None]:
    """Connect to Ray and disconnect at the end; a local Ray that was started here is stopped.

    Args:
        address: 'host:port' of a head; None means RAY_ADDRESS if set (as inside `ray job submit`),
            else a fresh local Ray, which takes a token of its own.
        show_workers: print what workers tell, as a training's progress; Ray's own files keep
            the rest of what they and Ray write.
        tell: gets a line before a local Ray starts, which takes seconds.

    Raises:
        ClusterError: nothing answers at the address, or memory ran out.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray's own files keep the rest
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")  # a trace of C++, and abort()
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    address = address or os.environ.get("RAY_ADDRESS")
    check_address(address)
    joined = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    if not (joined or address):
        tell("starting Ray on this machine ...")
    import ray

    try:
        with _own_signals(), _without_log_lines():
            if joined:
                pass
            elif address:
                ray.init(
                    address=address,
                    log_to_driver=show_workers,
                    logging_level="error",
                    runtime_env=_standing_here(),
                )
            else:
                _patiently(partial(_local_ray, show_workers=show_workers), tell)
            if show_workers and not joined:
                _show_told()
    except Exception as error:  # a slow start is a bare Exception of Ray's
        raise _no_ray(address, error) from error
    try:
        with _told_of_memory():
            yield
    finally:
        if not joined:
            ray.shutdown()
        if not (joined or address):
            os.environ.pop(API_SERVER, None)


@contextmanager
def _told_of_memory() -> Iterator[None]:
    """Say in a line that Ray ended workers for lack of memory, whatever library tells of it."""
    try:
        yield
    except Exception as error:
        if (used := _LOW.search(str(error))) is None:
            raise
        raise ClusterError(
            f"memory ran out ({used[1]} of {used[2]} in use), and Ray ended workers",
            remedy="End other programs, or ask for smaller batches or fewer workers, and run the"
            " same command again: it goes on where it was",
        ) from error


def _patiently(start: Callable[[], None], tell: Callable[[str], object]) -> None:
    """Start a local Ray, again where the machine was too busy for it: Ray waits half a minute."""
    import ray

    for attempt in range(STARTS):
        try:
            start()
            return
        except Exception as error:  # a slow start is a bare Exception of Ray's
            if TOO_BUSY not in str(error) or attempt + 1 == STARTS:
                raise
            ray.shutdown()
            tell("this machine is too busy for Ray to start within its time; trying again ...")


def _local_ray(*, show_workers: bool) -> None:
    """Start a Ray of this process alone."""
    import ray

    dashboard: dict[str, Any] = {"include_dashboard": show_workers}
    if show_workers:  # Ray Train asks it which groups are dead
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            dashboard["dashboard_port"] = free.getsockname()[1]
        # else it looks for some dashboard of this machine, and fails where there are two
        os.environ[API_SERVER] = f"http://127.0.0.1:{dashboard['dashboard_port']}"
    ray.init(
        address="local",  # else Ray joins, or waits for, any head it finds a trace of
        log_to_driver=show_workers,
        logging_level="error",
        **dashboard,
    )


def _standing_here() -> dict[str, Any]:
    """Return the environment in which relative places mean on workers what they mean here.

    Workers of a head stand where it was started: a relative catalog would be written there, and
    committed here. In a submitted job they stand in its working_dir already.
    """
    if IN_JOB in os.environ:
        return {}
    home = os.getcwd()

    def stand() -> None:
        if os.path.isdir(home):
            os.chdir(home)

    return {"worker_process_setup_hook": stand}


def _show_told() -> None:
    """Print what workers tell people, in place of all that they and Ray write."""
    from ray._private import worker
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as printed

    def show(data: Mapping[str, Any]) -> None:
        for line in shown_of_worker(data["lines"]):
            say(line)

    # Of the node itself, as that it started many processes; what ends a run is raised, and told.
    worker.print_to_stdstream = lambda *_data, **_how: None
    printed.remove_handler(RAYS_PRINTER)
    printed.add_handler(RAYS_PRINTER, show)  # under Ray's name: it goes when Ray does


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep what SIGTERM does here: Ray's handlers end a driver with 1 or 15 and say nothing."""
    from ray._private import utils

    theirs = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda _handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = theirs


@contextmanager
def _without_log_lines() -> Iterator[None]:
    """Hold back what Ray's C++ writes past Python while it starts: that its log level was set."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            lines = [line for line in held.read().splitlines(True) if b"logging.cc" not in line]
            os.write(2, b"".join(lines))


def check_address(address: str | None) -> None:
    """Raise where nobody answers at the address of a head, before Ray is imported.

    Raises:
        ClusterError: with how to start one; None is a local Ray, which is always there.
    """
    if address:
        try:
            _knock(address)
        except (OSError, ValueError) as error:
            raise _no_ray(address, error) from error


def _no_ray(address: str | None, error: Exception) -> ClusterError:
    why = (str(error) or repr(error)).splitlines()[0]
    if address:
        return ClusterError(
            f"no Ray head answers at {address!r} ({why})",
            remedy="Start a head with `ray start --head`, or leave the address out for a local Ray",
        )
    return ClusterError(
        f"a local Ray did not start ({why})",
        remedy="Run the same command again when the machine is less busy, or start a head that"
        " stays (`ray start --head`) and give its --address",
    )


def _knock(address: str) -> None:
    """Fail at once where nothing listens: Ray itself would try for half a minute.

    Raises:
        OSError: no connection to 'host:port' or 'ray://host:port'; 'auto' is left to Ray.
        ValueError: the address of a dashboard.
    """
    scheme, _, place = address.rpartition("://")
    if scheme in ("http", "https"):
        raise ValueError("that is a dashboard's address: give host:port, by default port 6379")
    host, _, port = place.rpartition(":")
    if host and port.isdecimal() and scheme in ("", "ray"):
        socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()


def start_run(
    *,
    source: str,
    overrides: Sequence[str],
    place: "Where",
    num_images: int | None = None,
    run_id: str | None = None,
) -> "Run":
    """Return a new run from a configuration, or the rest of run `run_id` of the catalog.

    Raises:
        ConfigError: the configuration is wrong, or changes were asked of a run that has begun.
        CatalogError: no catalog can be made there: said now, before Ray takes its time to start.
    """
    asked = [*overrides, *([f"num_images={num_images}"] if num_images is not None else [])]
    if run_id is None:
        config = load_config(GenerateConfig, source, asked)
    elif asked:
        raise ConfigError(
            f"run {run_id} keeps the configuration it began with",
            remedy="Leave out --set and --num-images with --resume",
        )
    from catalog.store import check_place
    from factory.models.generator import check_revision
    from factory.sample.prepare import prepare, prepare_resume

    if run_id is None:
        _check_number(config, asked)
    check_place(place)
    if run_id is not None:
        return prepare_resume(run_id, place)
    check_revision(config.model, config.revision)
    _check_references(config)
    run = prepare(config, place)
    check_used(config, run.generator)
    return run


def check_used(config: GenerateConfig, generator: "Generator") -> None:
    """Refuse what a new run would leave unused without a word.

    Raises:
        ConfigError: gates of masks where none are drawn, or real images for a method that shows
            none.
    """
    from factory.sample.method import draws_masks, parse_options

    method = config.method or generator.method
    options = parse_options(method, config.options)
    if config.data is not None and not (options and options.shows_references):
        raise ConfigError(
            f"data is {config.data!r}, and method {method!r} shows no real image as it is set",
            remedy="Leave data and split out, or set the options that show real images",
        )
    masked = draws_masks(method, config.options)
    for gate in sections(config):
        if gate.of_masks and not masked and gate != gate.default():
            raise ConfigError(
                f"{gate.key} judges masks, and method {method!r} draws none",
                remedy=f"Leave {gate.key} out",
            )


def _check_number(config: GenerateConfig, asked: Sequence[str]) -> None:
    """Refuse a number of images beside a table, which says it itself."""
    told = [text for text in asked if text.partition("=")[0] == "num_images"]
    if config.table is not None and told:
        raise ConfigError(
            f"{told[-1]}, and how many images are drawn stands in table {str(config.table)!r}",
            remedy="Leave the number out; a column count draws several of a row",
        )


def _check_references(config: GenerateConfig) -> None:
    """Refuse keys that mean something beside `data` alone."""
    default = GenerateConfig.model_fields
    for key in ("split", "references", "images_per_reference"):
        if config.data is None and getattr(config, key) != default[key].default:
            raise ConfigError(
                f"{key} is {getattr(config, key)!r}, and no data to show is named",
                remedy=f"Set data: to the real images, or leave {key} out",
            )
