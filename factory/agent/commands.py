"""`factory agent`: let an assistant look at a catalog, over the Model Context Protocol."""

import json
import shutil
import sys
from importlib.resources import files
from importlib.util import find_spec

import click

from catalog.commands import catalog_option, parse_place, storage_option
from factory.command_line import tell_next
from factory.errors import ConfigError
from factory.terminal import say


@click.command()
@catalog_option
@storage_option
@click.option(
    "--model", "models", multiple=True, metavar="NAME|FOLDER",
    help="A generator that plans may name beside wbc-base. May be repeated.",
)  # fmt: skip
@click.option("--skill", is_flag=True, help="Print what an assistant should know, and end.")
def agent(uri: str, storage: tuple[str, ...], models: tuple[str, ...], skill: bool) -> None:
    """Serve a catalog to an assistant, on standard input and output: tools that only read.

    They describe the catalog, query it, show an image and where it came from, plan a generation
    and list what studies found. An assistant starts this command itself; in a terminal it prints
    the entry of a configuration that makes one do so. Needs the extra `agent`.

    \b
    factory agent --catalog wbc-catalog
    factory agent --skill
    """  # noqa: D301 -- \b is click's mark
    if skill:
        click.echo((files("factory.agent") / "skill.md").read_text(encoding="utf-8").rstrip())
        tell_next("agent", "--catalog", uri)
        return
    if find_spec("mcp") is None or find_spec("mcp_types") is None:
        raise ConfigError(
            "an assistant is served by the library mcp, version 2, which is not installed",
            remedy="Install it: pip install 'medimage-factory[agent]'",
        )
    from catalog.place import Place, local_path
    from catalog.table import Catalog
    from factory.models.generator import find_generator

    place, local = parse_place(uri, storage), local_path(uri)
    if local is not None:  # an assistant types where it stands
        place = Place(str(local.absolute()), place.storage_options)
    Catalog(place)
    for model in models:  # named now, not when a plan wants it
        find_generator(model)

    from factory.agent.desk import Desk
    from factory.agent.server import serve

    if sys.stdin.isatty():
        command = shutil.which("factory") or sys.argv[0]
        entry = {"command": command, "args": ["agent", *place.words]}
        say("an assistant starts this itself; its configuration says:", err=True)
        say(json.dumps({"mcpServers": {"factory": entry}}, ensure_ascii=False), err=True)
    say(f"serving {place.uri}: tools that only read; it ends with its input", err=True)
    serve(Desk(place=place, models=models))
    tell_next("gallery", *place.words)
