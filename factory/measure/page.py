"""Pages of figures that need nothing beside them: jinja2 templates over one base, in one look.

`templates/page.html` holds the style, `macros.html` has `table` and `picture`; the templates of a
package extend the one and import the other.
"""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from factory.measure.intervals import Estimate

TEMPLATES = Path(__file__).parent / "templates"


def rendered(template: Path, values: Mapping[str, object], *, also: Sequence[Path] = ()) -> str:
    """Return the page of a template with these values; text is escaped.

    Filters: `figure`, an estimate with its interval; `thousandfold`, likewise of 1000 times the
    value; `number`, with so many digits; `percent`, a share; `embedded`, a PNG as the address of an
    image. `also` are folders of further templates that it extends.
    """
    places = FileSystemLoader([template.parent, *also, TEMPLATES])
    pages = Environment(
        loader=places,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {
        "figure": figure,
        "thousandfold": thousandfold,
        "number": number,
        "embedded": embedded,
        "percent": percent,
    }
    return pages.get_template(template.name).render(**values)


def figure(found: Estimate | None, digits: int = 3) -> str:
    """Return e.g. '0.966 [0.951, 0.977]', nothing of None."""
    if found is None:
        return ""
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def thousandfold(found: Estimate | None, digits: int = 1) -> str:
    """Return 1000 times an estimate, as KIDs are told."""
    if found is None:
        return ""
    bounds = (1000 * value for value in (found.value, found.low, found.high))
    value, low, high = (f"{bound:.{digits}f}" for bound in bounds)
    return f"{value} [{low}, {high}]"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with so many digits after the point, nothing of None."""
    return "" if value is None else f"{value:.{digits}f}"


def percent(share: float) -> str:
    """Return e.g. '12.8 %', '3 %' or '0 %'."""
    return f"{100 * share:.3g} %"


def embedded(png: bytes) -> str:
    """Return the address of a picture that lies in the page itself."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
