"""The tools an assistant has: a name, what it takes, what it says; each refuses what it should not.

Arguments are configuration like any other: frozen models that forbid unknown keys and guess no
types, whose errors name key and value and say what to do.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from factory.agent.desk import Answer, Desk
from factory.config import Frozen, parse_config
from factory.errors import CatalogError
from factory.sample.schedulers import SCHEDULERS
from factory.terminal import escaped

MOST_ROWS = 200
_ID_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def _id(text: str) -> str:
    plain = set(text) <= _ID_CHARS and text[:1].isalnum() and ".." not in text
    if not plain or len(text) > 128:
        raise ValueError("no id: up to 128 letters, digits, '.', '_' and '-', a letter first")
    return text


def _harmless(text: str) -> str:
    if escaped(text) != text:
        raise ValueError("it holds a character that acts instead of showing something")
    return text


Text = Annotated[str, Field(max_length=1000), AfterValidator(_harmless)]
ImageId = Annotated[str, AfterValidator(_id), Field(description="Column image_id of samples.")]
Prompts = Text | Annotated[tuple[Text, ...], Field(min_length=1, max_length=50)]


class Nothing(Frozen):
    """No arguments."""


class Query(Frozen):
    """Of query_catalog."""

    sql: Annotated[str, Field(min_length=1, max_length=10_000), AfterValidator(_harmless)] = Field(
        description="One SELECT, WITH, DESCRIBE or EXPLAIN of DuckDB. It sees no pixels."
    )
    limit: int = Field(50, ge=1, le=MOST_ROWS, description="Rows at most.")
    version: int | None = Field(None, ge=0, le=2**31, description="Of samples; null: the newest.")


class Show(Frozen):
    """Of show_image."""

    image_id: ImageId
    picture: Literal["image", "mask", "outlines"] = "image"


class Trace(Frozen):
    """Of trace_image."""

    image_id: ImageId


class Studies(Frozen):
    """Of list_studies."""

    limit: int = Field(10, ge=1, le=20)


class Plan(Frozen):
    """Of plan_generation; null and what is left out: as the preset and the generator say."""

    preset: Text = Field("wbc", description="A configuration that comes with the factory.")
    model: Text | None = Field(None, description="One of can_draw_with of describe_catalog.")
    num_images: int | None = Field(None, ge=1, le=10**9)
    classes: (
        Annotated[tuple[Text, ...], Field(max_length=200)]
        | Annotated[Mapping[Text, Prompts], Field(max_length=200)]
        | None
    ) = Field(None, description="Names, or {name: prompt or prompts}. null: all of the generator.")
    guidance_scale: float | None = Field(None, ge=0, le=100)
    num_inference_steps: int | None = Field(None, ge=1, le=1000)
    scheduler: Text | None = Field(None, description=f"One of {', '.join(SCHEDULERS)}.")
    size_px: int | None = Field(None, ge=8, le=8192)
    negative_prompt: Text | None = None
    batch_size: int | None = Field(None, ge=1, le=1024)
    max_tries: int | None = Field(None, ge=1, le=1000)
    seed: int | None = Field(None, ge=0, lt=2**63, description="null: a fresh one, in the answer.")


def _planned(desk: Desk, given: Plan) -> Answer:
    from factory.agent.plans import plan  # what plans knows models: not before one is asked

    asked = given.model_dump(mode="json", exclude={"preset"}, exclude_none=True)
    return plan(desk, preset=given.preset, asked=asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One tool. `answer` gets parsed arguments of the kind `takes`."""

    name: str
    title: str
    says: str
    takes: type[Frozen]
    answer: Callable[[Desk, Any], Answer]

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema of its arguments."""
        return self.takes.model_json_schema()


TOOLS = {
    tool.name: tool
    for tool in (
        Tool(
            name="describe_catalog",
            title="What is in the catalog",
            says="Classes with accepted and rejected images, runs, generators, releases, number of"
            " studies, tables with their columns, and what can be drawn with. Ask this first.",
            takes=Nothing,
            answer=lambda desk, _: desk.describe(),
        ),
        Tool(
            name="query_catalog",
            title="SQL on the catalog",
            says="Rows of one reading DuckDB statement over samples, runs, models, evaluations,"
            " scores, releases, release_files and tombstones; within 10 s and 1 GiB.",
            takes=Query,
            answer=lambda desk, a: desk.query(a.sql, limit=a.limit, version=a.version),
        ),
        Tool(
            name="show_image",
            title="One image and its row",
            says="A synthetic image as PNG, its mask in colours, or the outlines of its mask, with"
            " everything that gates said of it.",
            takes=Show,
            answer=lambda desk, a: desk.show(a.image_id, a.picture),
        ),
        Tool(
            name="trace_image",
            title="Where an image came from",
            says="Lineage of an image (run, generator, bases, split; releases, studies), its recipe"
            " and the command that redraws it.",
            takes=Trace,
            answer=lambda desk, a: desk.trace(a.image_id),
        ),
        Tool(
            name="plan_generation",
            title="What a generation would draw",
            says="Images by class with their prompts, settings, gates, time as far as it is known,"
            " and the exact command for a person to type. Nothing is drawn.",
            takes=Plan,
            answer=_planned,
        ),
        Tool(
            name="list_studies",
            title="What studies found",
            says="Verdicts of studies (did drawn images help?), with each arm's mean test score.",
            takes=Studies,
            answer=lambda desk, a: desk.studies(a.limit),
        ),
    )
}
"""Name -> tool."""


def answer(desk: Desk, name: str, arguments: Mapping[str, Any] | None) -> Answer:
    """Return what a tool says.

    Raises:
        FactoryError: an unknown tool, wrong arguments, or what the tool cannot do.
    """
    tool = TOOLS.get(name)
    if tool is None:
        raise CatalogError(
            f"there is no tool {name[:100]!r}", remedy=f"Tools are {', '.join(TOOLS)}"
        )
    return tool.answer(desk, parse_config(tool.takes, arguments or {}, where=name))
