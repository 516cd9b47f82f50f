"""The gallery as a Starlette application: which address leads to which page, behind the guard."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from catalog.embed import Space
from catalog.gallery.guard import App, Guard, form_mark
from catalog.gallery.index import Index
from catalog.gallery.pages import Gallery
from catalog.gallery.reals import Reals
from catalog.gallery.review_pages import REVIEW, Reviewing, ReviewPages
from factory.errors import FactoryError

AT_ONCE = 8
"""Pages that are worked at."""


def application(
    index: Index,
    *,
    host: str = "127.0.0.1",
    token: str | None = None,
    data: str | None = None,
    space: Space | None = None,
    reviewing: Reviewing | None = None,
) -> App:
    """Return the guarded application of one catalog.

    Args:
        index: of the catalog.
        host: the address that the server is bound to.
        token: asked of everyone, unless None.
        data: real images that may be shown; None shows none.
        space: computes their features for the map; None: ring spectra.
        reviewing: takes verdicts, and wants a token; None only shows.
    """
    reals = None if data is None else Reals(data, space)
    is_blind = None if reviewing is None else reviewing.is_blind
    gallery = Gallery(index=index, data=data, reals=reals, is_blind=is_blind)
    return application_of(gallery, host=host, token=token, reviewing=reviewing)


def application_of(
    gallery: Gallery,
    *,
    host: str = "127.0.0.1",
    token: str | None = None,
    reviewing: Reviewing | None = None,
) -> App:
    """Return the guarded application of a gallery, see `application`.

    Raises:
        ValueError: verdicts without a token.
    """
    routes = [Route(path, page, methods=["GET"]) for path, page in _pages(gallery).items()]
    if reviewing is not None:
        own = ReviewPages(gallery=gallery, how=reviewing, mark=form_mark(token or ""))
        routes = own.routes(routes)
    refused: Any = gallery.refused
    pages = Starlette(
        routes=routes,
        exception_handlers={FactoryError: refused, HTTPException: refused},
        lifespan=_few_threads,
    )
    return Guard(pages, host=host, token=token, posts=() if reviewing is None else (REVIEW,))


def _pages(gallery: Gallery) -> dict[str, Callable[[Request], Response]]:
    """Return the pages that only show, by their address."""
    pages: dict[str, Callable[[Request], Response]] = {
        "/": gallery.overview,
        "/images": gallery.images,
        "/image/{image}": gallery.any_run,
        "/image/{run}/{image:path}": gallery.image,
        "/picture/{run}/{image:path}/{kind}.png": gallery.picture,
        "/runs": gallery.runs,
        "/models": gallery.models,
        "/gates": gallery.gates,
        "/evaluations": gallery.evaluations,
        "/releases": gallery.releases,
        "/reviews": gallery.reviews,
        "/compare": gallery.compare,
        "/map": gallery.map,
        "/map/points": gallery.points,
        "/at/{epoch}/{number:int}.png": gallery.at,
        "/at/{epoch}/{number:int}": gallery.at,
        "/static/{name}": gallery.static,
    }
    if gallery.data is not None:
        pages |= {
            "/beside": gallery.beside,
            "/real/{id:path}": gallery.real,
            "/map/real": gallery.real_points,
            "/at-real/{number:int}": gallery.real_at,
        }
    return pages


@asynccontextmanager
async def _few_threads(_: Starlette) -> AsyncIterator[None]:
    """Work at few pages at a time: each may hold megabytes, and Python computes one anyway."""
    to_thread.current_default_thread_limiter().total_tokens = AT_ONCE
    yield
