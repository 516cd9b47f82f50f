"""The tools as a server of the Model Context Protocol on standard input and output.

The protocol's own library speaks it (`mcp`, extra `agent`). While it serves, what anything here
prints goes to the error stream: standard output belongs to the protocol.
"""

import base64
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from importlib.resources import files
from types import FrameType
from typing import Any

import anyio
from anyio import CapacityLimiter, to_thread
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ImageContent,
    ListToolsResult,
    TextContent,
    Tool,
    ToolAnnotations,
)

from factory import __version__
from factory.agent.bounds import as_text
from factory.agent.desk import Desk
from factory.agent.tools import TOOLS, answer
from factory.command_line import STOPPING
from factory.errors import FactoryError

AT_ONCE = 4
"""Tools that work at a time; others wait."""
_LOG = logging.getLogger(__name__)


def skill() -> str:
    """Return what an assistant should know of the factory, as a skill file."""
    return (files("factory.agent") / "skill.md").read_text(encoding="utf-8")


def serve(desk: Desk) -> None:
    """Answer until standard input ends, or until a signal."""
    with closing(desk), _ending(desk):
        anyio.run(_serve, server_of(desk))


@contextmanager
def _ending(desk: Desk) -> Iterator[None]:
    """End at once on a signal: the thread that waits for standard input cannot be woken."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, *STOPPING)}

    def end(signum: int, _frame: FrameType | None) -> None:
        desk.close()
        by = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        os.write(2, f"stopped by {by}\n".encode())
        os._exit(128 + signum)

    for signum, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(signum, end)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def server_of(desk: Desk) -> "Server[dict[str, Any]]":
    """Return the server of a desk, on no transport yet."""
    limiter = CapacityLimiter(AT_ONCE)

    async def listed(_context: Any, _params: Any) -> ListToolsResult:
        return ListToolsResult(tools=[*map(_told, TOOLS)])

    async def called(_context: Any, params: CallToolRequestParams) -> CallToolResult:
        asked = partial(result_of, desk, params.name, params.arguments)
        return await to_thread.run_sync(asked, abandon_on_cancel=True, limiter=limiter)

    return Server(
        "factory",
        version=__version__,
        title="medimage-factory",
        instructions=skill().partition("\n---\n")[2].strip(),
        on_list_tools=listed,
        on_call_tool=called,
    )


def result_of(desk: Desk, name: str, arguments: dict[str, Any] | None) -> CallToolResult:
    """Return a tool's answer as the protocol has it: text, and a picture; or what is wrong."""
    try:
        found = answer(desk, name, arguments)
        content: list[Any] = [TextContent(type="text", text=as_text(found.data))]
    except FactoryError as error:
        return _refused(f"error: {error}")
    except Exception as error:  # a bug: the assistant is told no more than that
        _LOG.exception("tool %r failed", name)
        return _refused(f"error: {name[:100]} failed ({type(error).__name__}). Its log says more.")
    if found.png is not None:
        data = base64.b64encode(found.png).decode()
        content.insert(0, ImageContent(type="image", data=data, mime_type="image/png"))
    return CallToolResult(content=content)


def _refused(text: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)


def _told(name: str) -> Tool:
    tool = TOOLS[name]
    return Tool(
        name=name,
        title=tool.title,
        description=tool.says,
        input_schema=tool.schema,
        annotations=ToolAnnotations(
            title=tool.title,
            read_only_hint=True,
            destructive_hint=False,
            idempotent_hint=True,
            open_world_hint=False,
        ),
    )


async def _serve(server: "Server[dict[str, Any]]") -> None:
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())
