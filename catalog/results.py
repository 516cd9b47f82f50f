"""Results of studies in a catalog: an evaluation and its scores, together and exactly once."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from catalog.boundary import check_run_id
from catalog.place import Where
from catalog.sink import append_once, typed_rows
from factory.errors import CatalogError

Effect = Literal["helps", "hurts", "no evidence"]
"""What a study says of an arm: the one meaning that sentences and colours follow from."""


def effect_of(low: float, high: float) -> Effect:
    """Return what a difference says by its 95 % interval: something only where 0 is left out."""
    if low > 0:
        return "helps"
    return "hurts" if high < 0 else "no evidence"


def effects(row: Mapping[str, Any]) -> dict[str, Effect]:
    """Return what a row of `EVALUATIONS` says of each arm that has a verdict, by its intervals.

    'no evidence' of an arm whose interval is not to be found.
    """
    verdicts, comparisons = (json_object(row[name]) for name in ("verdicts", "comparisons"))
    found: dict[str, Effect] = {}
    for arm in verdicts:
        value: Any = comparisons
        for key in (arm, row["baseline"], "difference"):
            value = value.get(key) if isinstance(value, dict) else None
        ends = value if isinstance(value, dict) else {}
        low, high = ends.get("low"), ends.get("high")
        found[arm] = "no evidence"
        if isinstance(low, int | float) and isinstance(high, int | float):
            found[arm] = effect_of(low, high)
    return found


def json_object(text: str) -> dict[str, Any]:
    """Return what a column of JSON holds; nothing where it is no object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def record_evaluation(
    place: Where,
    row: Mapping[str, object],
    scores: Sequence[Mapping[str, object]],
) -> int:
    """Append an evaluation and its scores; return the version of `evaluations`.

    Scores come first: an evaluation that can be read has all of them. One that is recorded already
    is left as it is.

    Args:
        place: catalog, created when there is none.
        row: the columns of `EVALUATIONS`.
        scores: the columns of `SCORES`, all of this evaluation.

    Raises:
        CatalogError: wrong columns, no scores or those of another evaluation, or not writable.
    """
    evaluation_id = str(row.get("evaluation_id") or "")
    check_run_id(evaluation_id)
    others = {str(score.get("evaluation_id")) for score in scores} - {evaluation_id}
    if others or not scores:
        raise CatalogError(
            f"evaluation {evaluation_id} comes with {len(scores)} scores, of {sorted(others)} too",
            remedy="Give the scores of this evaluation",
        )
    version = 0
    for name, rows in (("scores", scores), ("evaluations", [row])):
        version = append_once(
            place,
            name,
            typed_rows(rows, name),
            key={"evaluation_id": evaluation_id},
            app_id=evaluation_id,
            app_version=1,
        )
    return version
