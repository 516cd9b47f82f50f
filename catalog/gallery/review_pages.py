"""`/review`: one image at a time, and what a person says of it. The one page that writes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from catalog.gallery.details import config_of, gates_of, latest_runs
from catalog.gallery.filters import BadAddress, Filters, filters_of
from catalog.gallery.guard import equal
from catalog.gallery.index import View
from catalog.gallery.listing import key_of, located, view_of
from catalog.gallery.pages import Gallery
from catalog.gallery.reviews import Queue, last_of, reasons_of, said_of
from catalog.reviews import LONGEST_NAME, LONGEST_REASON, Review, record_review, reviewer_of
from catalog.schema import ACCEPTED, WITHDRAWN
from factory.errors import CatalogError
from factory.gate.registry import all_scores

REVIEW = "/review"
ALSO = ("reviewer", "image", "after")
"""Parameters beside the filters: who looks, at which image, or at the one after which."""
OPEN = ("class", "run", "model", "method", "recipe")
"""Filters that lead no verdict: what a blind review may be about."""
SHOWN_BLIND = ("/picture/", "/static/", "/real/")
"""Pages of the gallery that a blind review leaves."""
FIELDS = ("image", "verdict", "mark")
_AT_MOST = (*FIELDS, "reviewer", "reason")
_OF_GATES = ("run_id", "gate_status", "gate_reasons", *(score.column for score in all_scores()))


@dataclass(frozen=True, kw_only=True)
class Reviewing:
    """How verdicts are taken.

    `reviewer`: whose they are; None: each says a name. `is_blind`: nobody sees scores, gates and
    the other pages. `now` tells the time.
    """

    code_version: str
    reviewer: str | None = None
    is_blind: bool = False
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class ReviewPages:
    """The pages of a review. `mark` is what its forms hold, see `guard.form_mark`."""

    gallery: Gallery
    how: Reviewing
    mark: str

    def routes(self, others: Sequence[Route]) -> list[Route]:
        """Return the routes of a review beside those of the gallery."""
        own = [
            Route(REVIEW, self.show, methods=["GET"]),
            Route(REVIEW, self.say, methods=["POST"]),
        ]
        if not self.how.is_blind:
            return [*own, *others]
        kept = [route for route in others if route.path.startswith(SHOWN_BLIND)]
        return [Route("/", self.begin, methods=["GET"]), *own, *kept]

    def begin(self, _: Request) -> Response:
        """Lead to the review: a blind one has no other pages."""
        return RedirectResponse(REVIEW, status_code=303)

    def show(self, request: Request) -> Response:
        """The next image without a verdict, or the one that is asked for."""
        index = self.gallery.index
        filters, reviewer = self._filters(request), self._reviewer(request)
        if not filters.given() and not self.how.is_blind:  # what would be handed out
            query = Filters(exact={"status": ACCEPTED}).query(**self._named(reviewer))
            return RedirectResponse(f"{REVIEW}?{query}", status_code=303)
        index.listen(at_once=True)
        view = view_of(index, filters)
        queue = Queue.of(index, view, filters, reviewer)
        told: dict[str, Any] = {
            "filters": filters, "reviewer": reviewer, "mark": self.mark,
            "longest": (LONGEST_NAME, LONGEST_REASON), "progress": queue.progress(),
            "here": f"{REVIEW}?{filters.query(**self._named(reviewer))}",
        }  # fmt: skip
        if not reviewer:
            return self.gallery.page("review_name.html", **told)
        row = self._next(request, queue)
        told["last"] = last_of(index, reviewer)
        if row is None:
            return self.gallery.page("review_done.html", **told)
        return self.gallery.page("review.html", row=row, **self._of(view, row, reviewer), **told)

    async def say(self, request: Request) -> Response:
        """Write one verdict down and lead to the next image."""
        body = await request.body()
        return await to_thread.run_sync(self._say, request, body)

    def _say(self, request: Request, body: bytes) -> Response:
        form, filters = form_of(body), self._filters(request)
        if not equal(form["mark"], self.mark):
            error = BadAddress("this form is none of this server's", remedy=f"Load {REVIEW} again")
            return self.gallery.page("error.html", status=403, error=error)
        index, reviewer = self.gallery.index, form.get("reviewer", self.how.reviewer or "")
        if self.how.reviewer not in (None, reviewer):
            raise BadAddress(
                f"the verdicts here are those of {self.how.reviewer!r}, not of {reviewer[:80]!r}",
                remedy="Start another `factory review`, without --reviewer or with this name",
            )
        row = located(index, form["image"])
        key = key_of(row)
        pixels = self.gallery.row(index.newest(), key, ("pixel_sha256",))["pixel_sha256"]
        try:
            review = Review(
                image_id=row["image_id"], verdict=form["verdict"], reviewer=reviewer,
                reason=form.get("reason"), run_id=row["run_id"], pixel_sha256=pixels,
                is_blind=self.how.is_blind,
            )  # fmt: skip
        except CatalogError as error:
            raise BadAddress(error.what, remedy=error.remedy) from error
        record_review(index.place, review, now=self.how.now(), code_version=self.how.code_version)
        index.listen(at_once=True)
        place = {"image" if review.verdict == WITHDRAWN else "after": key}
        query = filters.query(**self._named(review.reviewer), **place)
        return RedirectResponse(f"{REVIEW}?{query}", status_code=303)

    def _of(self, view: View, row: dict[str, Any], reviewer: str) -> dict[str, Any]:
        """Return what is shown of an image: of others' verdicts none before one's own."""
        index, key = self.gallery.index, key_of(row)
        said = [each for each in said_of(index, row["image_id"]) if each["stands"]]
        mine = next((each for each in said if each["reviewer"] == reviewer), None)
        shown, gates = mine is not None and not self.how.is_blind, []
        if not self.how.is_blind:
            held = self.gallery.row(view, key, _OF_GATES)
            gates = gates_of(held, config_of(latest_runs(view.catalog).get(row["run_id"])))
        (thumb,) = self.gallery.thumbnails.of(view, [row])
        return {
            "key": key, "mine": mine, "gates": gates, "masked": bool(thumb.lines),
            "others": [each for each in said if shown and each is not mine],
            "near": self.gallery.near(view, key), "reasons": reasons_of(index, reviewer),
        }  # fmt: skip

    def _next(self, request: Request, queue: Queue) -> dict[str, Any] | None:
        asked, after = (request.query_params.get(name) for name in ("image", "after"))
        if asked:
            return located(self.gallery.index, asked)
        return queue.next(located(self.gallery.index, after) if after else None)

    def _filters(self, request: Request) -> Filters:
        found = filters_of(request.query_params.multi_items(), also=ALSO)
        leading = sorted(found.given().keys() - set(OPEN))
        if self.how.is_blind and leading:
            raise BadAddress(
                f"{leading[0]!r} would lead the verdicts of a blind review",
                remedy=f"Choose images by {', '.join(OPEN)}",
            )
        return found

    def _reviewer(self, request: Request) -> str:
        """Return who looks; '' where nobody has said so yet."""
        given = request.query_params.get("reviewer", "").strip()
        if self.how.reviewer is not None or not given:
            return self.how.reviewer or ""
        try:
            return reviewer_of(given)
        except CatalogError as error:
            raise BadAddress(error.what, remedy=error.remedy) from error

    def _named(self, reviewer: str) -> dict[str, str]:
        """Return the parameter that says who looks, where addresses have to."""
        return {} if self.how.reviewer is not None else {"reviewer": reviewer}


def form_of(body: bytes) -> dict[str, str]:
    """Return the fields of one verdict as a browser posts them.

    Raises:
        BadAddress: it is no form, a field is missing, unknown or given twice.
    """
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=True,
            errors="strict", max_num_fields=len(_AT_MOST),
        )  # fmt: skip
    except ValueError as error:
        raise _no_form("it cannot be read") from error
    form = dict(pairs)
    if len(form) < len(pairs):
        raise _no_form("a field is given twice")
    if not set(FIELDS) <= form.keys() <= set(_AT_MOST):
        raise _no_form("a field is missing or unknown")
    return form


def _no_form(why: str) -> BadAddress:
    return BadAddress(
        f"what was posted is not one verdict: {why}",
        remedy=f"Send {', '.join(FIELDS)} once each; reviewer and reason may come too",
    )
