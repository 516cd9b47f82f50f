"""The pages of a gallery that show: parse the address, ask, fill a template."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from catalog.export.png_text import as_synthetic
from catalog.gallery.charts import comparison
from catalog.gallery.details import (
    config_of,
    gates_of,
    groups_of,
    latest_runs,
    nearest_real,
)
from catalog.gallery.filled import STATIC, TEMPLATES, TYPES
from catalog.gallery.filters import MOST_CORNERS, BadAddress, Filters, NotHere, filters_of
from catalog.gallery.index import Index, View
from catalog.gallery.listing import (
    around,
    in_address,
    key_of,
    located,
    page_of,
    releases_of,
    view_of,
)
from catalog.gallery.map import (
    COLOURS,
    chosen_of,
    image_at,
    legend_of,
    points_of,
    reals_of,
)
from catalog.gallery.overview import MOST_CLASSES, choices_of, overview_of, samples_of
from catalog.gallery.pictures import PICTURES, Thumbnails, is_png, rows_of
from catalog.gallery.reals import Reals, beside, real_png
from catalog.gallery.records import (
    BOX_HEIGHT,
    BOX_WIDTH,
    evaluations,
    gate_charts,
    lineage_of,
    models,
    releases,
    runs,
)
from catalog.gallery.reviews import said_of, summary_of
from catalog.schema import SAMPLES
from factory.errors import CatalogError, DataError

ZOOMS = (1, 2, 3, 4, 6, 8, 12, 16)
BESIDE, NEAREST, LOOKS, NEIGHBOURS = 12, 4, 4, 8
"""Images of a class on either side; real ones nearest to a drawn one; of a class in a compare;
drawn ones nearest to a drawn one."""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """What the pages need. `data` is where real images lie; None shows none."""

    index: Index
    data: str | None = None
    thumbnails: Thumbnails = field(default_factory=Thumbnails)
    reals: Reals | None = None
    is_blind: bool | None = None
    """Whether reviewers, who are listened to, see no scores; None: nothing is written."""

    def overview(self, request: Request) -> Response:
        """What the catalog holds; with parameters it is the page of images, as it once was."""
        if request.url.query:
            return RedirectResponse(f"/images?{request.url.query}", status_code=308)
        view = self.index.newest()
        found = overview_of(self.index, view, self.thumbnails)
        names = [card.name for card in found.classes]
        return self.page("overview.html", o=found, reals=beside(self.reals, names, 3))

    def beside(self, request: Request) -> Response:
        """Real images and drawn ones of each class, large and side by side."""
        filters = _filters(request)
        view = view_of(self.index, filters)
        chosen = filters.exact.get("class")
        names = [chosen] if chosen else view.facets["class_name"][:MOST_CLASSES]
        cards = [
            {"name": name, "rows": samples_of(self.index, view, name, BESIDE, filters)}
            for name in names
        ]
        return self.page(
            "beside.html", cards=cards, reals=beside(self.reals, names, BESIDE), data=self.data,
            choices=choices_of(self.index, view, filters),
        )  # fmt: skip

    def images(self, request: Request) -> Response:
        """Thumbnails of the images that pass the filters, a page of them."""
        filters = _filters(request, "after", "before")
        view = view_of(self.index, filters)
        page = page_of(self.index, view, filters, after=_one(request, "after"),
                       before=_one(request, "before"))  # fmt: skip
        tiles = list(zip(page.rows, self.thumbnails.of(view, page.rows), strict=True))
        return self.page(
            "images.html", filters=filters, view=view, page=page, tiles=tiles,
            choices=choices_of(self.index, view, filters), releases=releases_of(self.index),
        )  # fmt: skip

    def image(self, request: Request) -> Response:
        """One image with everything that is known of it."""
        filters = _filters(request, "zoom")
        view = view_of(self.index, filters)
        found = located(self.index, _key(request))
        self.index.listen()
        columns = [name for name in SAMPLES.names if name not in ("image", "mask")]
        row = self.row(view, _key(request), [*columns, "mask"])
        run = latest_runs(view.catalog).get(row["run_id"])
        before, after = around(self.index, view, filters, key_of(found))
        masked = row["mask"] is not None
        near = self.near(view, _key(request))
        drawn = self._neighbours(view, filters, row["image_id"])
        return self.page(
            "image.html", filters=filters, view=view, row=row, run=run, zoom=_zoom(request),
            zooms=ZOOMS, masked=masked, near=near, drawn=drawn, before=before, after=after,
            of_class=self._of_class(row["class_name"], near), groups=groups_of(row),
            gates=gates_of(row, config_of(run)), nearest=nearest_real(row), data=self.data,
            lineage=lineage_of(self.index, view.catalog, row), box=(BOX_WIDTH, BOX_HEIGHT),
            said=said_of(self.index, row["image_id"]),
        )  # fmt: skip

    def any_run(self, request: Request) -> Response:
        """Lead from an image's id alone to the earliest run that drew it."""
        found = located(self.index, request.path_params["image"])
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"/image/{in_address(key_of(found))}{query}", status_code=302)

    def picture(self, request: Request) -> Response:
        """An image, its mask in colours, or its outlines, as PNG."""
        kind = request.path_params["kind"]
        row = self.row(self.index.newest(), _key(request), ("image", "mask", "pixel_sha256"))
        png = PICTURES[kind](row) if kind in PICTURES else b""
        if not is_png(png):
            raise NotHere(f"this image has no {kind!r} to show", remedy="Go back to the images")
        if kind == "image":  # a browser saves it as a file among others
            png = as_synthetic(png, request.path_params["image"])
        tag = f'"{row["pixel_sha256"]}-{hashlib.sha256(png).hexdigest()[:16]}"'
        headers = {"etag": tag, "cache-control": "private, max-age=3600"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(png, media_type="image/png", headers=headers)

    def real(self, request: Request) -> Response:
        """A real image, where the one who started the server said that they may be shown."""
        try:
            png = real_png(self.reals, request.path_params["id"])
        except DataError as error:
            raise NotHere(error.what, remedy=error.remedy) from error
        # a patient's image stays on no disk but the one it came from
        return Response(png, media_type="image/png", headers={"cache-control": "no-store"})

    def map(self, request: Request) -> Response:
        """All images by their features; what lies in a part of the map, if one was chosen."""
        filters = _filters(request)
        view, found = view_of(self.index, filters), self.index.points.map()
        wide = filters.whole_map()
        legend, chosen, seen, tiles = None, None, "", list[Any]()
        if found is not None:
            legend = legend_of(self.index, view, wide)
            # whatever changes the points changes one of these: a browser may keep what it has
            told = (self.index.points.epoch, view.catalog.version, found.event, legend.total)
            seen = ".".join(map(str, told))
        if found is not None and filters.part:
            chosen = chosen_of(self.index, view, filters, found)
            tiles = list(zip(chosen.rows, self.thumbnails.of(view, chosen.rows), strict=True))
        return self.page(
            "map.html", filters=filters, wide=wide, view=view, found=found, legend=legend,
            chosen=chosen, tiles=tiles, colours=COLOURS, epoch=self.index.points.epoch, seen=seen,
            corners=MOST_CORNERS, choices=choices_of(self.index, view, wide),
        )  # fmt: skip

    def points(self, request: Request) -> Response:
        """The points of the map, see `catalog.gallery.map.packed`."""
        filters = _filters(request, "seen")
        view = view_of(self.index, filters)
        if self.index.points.map() is None:
            raise NotHere("there is no map yet", remedy="Make one with `factory catalog embed`")
        return Response(points_of(self.index, view, filters), media_type="application/octet-stream")

    def real_points(self, request: Request) -> Response:
        """The real images on the map likewise, where they may be shown."""
        _none(request)
        found = self.index.points.map()
        data = b"" if self.reals is None or found is None else reals_of(self.reals, found)
        headers = {"cache-control": "no-store"}
        return Response(data, media_type="application/octet-stream", headers=headers)

    def at(self, request: Request) -> Response:
        """The image that a point of the map stands for, as a thumbnail or as its page."""
        epoch, number = request.path_params["epoch"], request.path_params["number"]
        row = image_at(self.index, epoch, number)
        if request.url.path.endswith(".png"):
            view = self.index.newest()
            (thumb,) = self.thumbnails.of(view, [row])
            if not thumb.image:
                raise NotHere("this image is no readable PNG", remedy="Choose another one")
            return Response(thumb.image, media_type="image/png")
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"/image/{in_address(key_of(row))}{query}", status_code=302)

    def real_at(self, request: Request) -> Response:
        """The real image that a point of the map stands for."""
        ids = [] if self.reals is None else self.reals.dataset.ids
        number = request.path_params["number"]
        if number >= len(ids):
            raise NotHere("there is no such real image", remedy="Load the map again")
        return RedirectResponse(f"/real/{quote(ids[number])}", status_code=302)

    def runs(self, request: Request) -> Response:
        """All runs."""
        return self.page("runs.html", runs=runs(self._newest(request)))

    def models(self, request: Request) -> Response:
        """All generators, with their cards."""
        return self.page("models.html", models=models(self._newest(request)))

    def gates(self, request: Request) -> Response:
        """How every score spreads, with the bounds that gates set."""
        filters = _filters(request)
        view = view_of(self.index, filters)
        charts = gate_charts(self.index, view, filters)
        return self.page("gates.html", filters=filters, view=view, charts=charts)

    def evaluations(self, request: Request) -> Response:
        """What studies found."""
        return self.page("evaluations.html", studies=evaluations(self._newest(request)))

    def releases(self, request: Request) -> Response:
        """All releases."""
        self._newest(request)
        return self.page("releases.html", releases=releases(self.index))

    def reviews(self, request: Request) -> Response:
        """What people said: by reviewer, beside the gates, and where they do not agree."""
        filters = _filters(request)
        self.index.listen()
        view = view_of(self.index, filters)
        found = summary_of(self.index, view, filters)
        thumbs = self.thumbnails.of(view, found.disputed)
        disputed = list(zip(found.disputed, thumbs, strict=True))
        return self.page("reviews.html", found=found, disputed=disputed, filters=filters)

    def compare(self, request: Request) -> Response:
        """Two releases or conditions side by side."""
        given = request.query_params.multi_items()
        odd = [name for name, _ in given if not name.startswith(("a.", "b."))]
        if odd:
            raise BadAddress(
                f"there is no parameter {odd[0]!r}", remedy="Write a.NAME and b.NAME, as a.class"
            )
        sides = [filters_of(given, prefix=prefix) for prefix in ("a.", "b.")]
        views = [view_of(self.index, side) for side in sides]
        found = comparison(self.index, views, sides)
        thumbs = {
            side: self.thumbnails.of(views[side], [pair[side] for pair in found.pairs])
            for side in (0, 1)
        }
        names = [name for name, a, b in found.classes if a or b][:MOST_CLASSES]
        return self.page(
            "compare.html", sides=sides, views=views, found=found, thumbs=thumbs,
            looks=[(n, *(self._looks(*each, n) for each in zip(views, sides, strict=True)))
                   for n in names],
            releases=releases_of(self.index), asked=bool(given),
        )  # fmt: skip

    def static(self, request: Request) -> Response:
        """The style sheet and the script."""
        name = request.path_params["name"]
        if name not in STATIC:
            raise NotHere(f"there is no file {name!r}", remedy="Go back to the images")
        headers = {"cache-control": "private, max-age=3600"}
        return Response(STATIC[name], media_type=TYPES[Path(name).suffix], headers=headers)

    def refused(self, request: Request, error: Exception) -> Response:
        """One line that says what is wrong and what to do."""
        status = 400 if isinstance(error, BadAddress) else 404
        if not isinstance(error, BadAddress | NotHere | HTTPException):
            status = 503
        if isinstance(error, HTTPException):
            error = NotHere(
                f"there is no page {request.url.path[:200]!r}", remedy="Go back to the images"
            )
        return self.page("error.html", status=status, error=error)

    def row(self, view: View, key: str, columns: Any) -> dict[str, Any]:
        """Return columns of the image that `key` names, see `located`.

        Raises:
            NotHere: this view has no such image.
        """
        table = rows_of(view, [located(self.index, key)], columns)
        rows = [row for row in table.to_pylist() if key_of(row) == key]
        if not rows:
            raise NotHere(
                f"image {key!r} is not in {view.catalog.named}", remedy="Choose a later version"
            )
        return dict(rows[0])

    def near(self, view: View, key: str) -> list[str]:
        """Return ids of the real images nearest to an image; none where they are not shown."""
        if self.reals is None:
            return []
        png = self.row(view, key, ("image",))["image"]["bytes"]
        return self.reals.nearest(png or b"", NEAREST)

    def _neighbours(self, view: View, filters: Filters, image_id: str) -> list[Any] | None:
        """Return (Near, thumbnail) of the drawn images nearest to one; None without features."""
        pinned = Filters(release=filters.release, version=filters.version)
        try:
            near = self.index.points.nearest(view, pinned, image_id, NEIGHBOURS)
        except CatalogError:  # features that are none: the rest of the page is still right
            return None
        if near is None:
            return None
        thumbs = self.thumbnails.of(view, [each.row for each in near])
        return list(zip(near, thumbs, strict=True))

    def _of_class(self, name: str, besides: list[str]) -> list[str]:
        """Return ids of real images of a class, but for those that are shown already."""
        found = self.reals.of_class(name, NEAREST + len(besides)) if self.reals else []
        return [image_id for image_id in found if image_id not in besides][:NEAREST]

    def _looks(self, view: View, filters: Filters, name: str) -> list[Any]:
        """Return rows of a class on one side of a comparison, with their thumbnails."""
        rows = samples_of(self.index, view, name, LOOKS, filters)
        return list(zip(rows, self.thumbnails.of(view, rows), strict=True))

    def _newest(self, request: Request) -> Any:
        _none(request)
        return self.index.newest().catalog

    def page(self, name: str, *, status: int = 200, **values: Any) -> Response:
        """Return a template filled with values."""
        text = TEMPLATES.get_template(name).render(
            uri=self.index.place.uri, page_name=name, shows_real=self.data is not None,
            is_blind=self.is_blind, **values,
        )  # fmt: skip
        return HTMLResponse(text, status_code=status)


def _filters(request: Request, *also: str) -> Filters:
    return filters_of(request.query_params.multi_items(), also=also)


def _none(request: Request) -> None:
    """Refuse parameters on a page that has none."""
    for name in request.query_params:
        raise BadAddress(f"there is no parameter {name!r} here", remedy="Leave it out")


def _one(request: Request, name: str) -> str:
    return request.query_params.get(name, "")


def _key(request: Request) -> str:
    return f"{request.path_params['run']}/{request.path_params['image']}"


def _zoom(request: Request) -> int | None:
    """Return the factor of enlargement that was asked for; None: as large as the screen allows."""
    text = _one(request, "zoom")
    if not text:
        return None
    if text not in map(str, ZOOMS):
        raise BadAddress(f"zoom is {text[:20]!r}", remedy=f"Choose of {', '.join(map(str, ZOOMS))}")
    return int(text)
