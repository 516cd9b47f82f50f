"""What people say of drawn images: verdicts with a name, appended and never overwritten.

A row of `reviews` is one verdict of one person on one image. A later one of the same person on the
same image stands in its place, 'withdrawn' takes it back, and every earlier one stays. In SQL
`reviews` are those that stand, `review_events` all of them, and the column `review` of `samples`,
where a statement names it, is what those that stand say together: 'accepted' or 'rejected' where
they agree, 'disputed' where they do not, null where nobody looked. A name is what somebody typed:
who may write at all is for the catalog's place, or the gallery's token, to say.
"""

import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from catalog.files import Files, listed_files
from catalog.place import Where
from catalog.schema import ACCEPTED, REVIEWS, VERDICTS, WITHDRAWN
from catalog.sink import put_rows, stem_of, typed_rows
from catalog.store import filesystem, open_table, reading
from catalog.transaction import Addition, Retry, Snapshots, commit_missing
from factory.digest import digest
from factory.errors import CatalogError
from factory.terminal import one_line

LONGEST_NAME, LONGEST_REASON = 80, 500
"""Characters of a reviewer's name and of a reason."""

_STANDING = f"""CREATE VIEW reviews AS SELECT * FROM review_events
WHERE image_id IS NOT NULL AND reviewer IS NOT NULL AND verdict IN {VERDICTS}
QUALIFY verdict <> '{WITHDRAWN}' AND
row_number() OVER (PARTITION BY image_id, reviewer ORDER BY event DESC) = 1"""
_TOGETHER = """CREATE VIEW reviewed AS SELECT image_id,
CASE WHEN min(verdict) = max(verdict) THEN min(verdict) ELSE 'disputed' END AS review
FROM reviews GROUP BY image_id"""
_OF_SAMPLES = """CREATE VIEW samples AS SELECT stored_samples.*, reviewed.review
FROM stored_samples LEFT JOIN reviewed USING (image_id)"""


def views(*, with_samples: bool = False) -> list[str]:
    """Return the statements that make `reviews` and `reviewed` of a table `review_events`.

    `with_samples` also makes `samples` of `stored_samples`, with the column `review`. The join
    costs the reading of every image_id: it is made for statements that name it.
    """
    return [_STANDING, _TOGETHER, *([_OF_SAMPLES] if with_samples else [])]


def names_reviews(text: str) -> bool:
    """Whether an SQL text may ask what people said of images."""
    return "review" in text.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """One verdict: 'accepted', 'rejected' or 'withdrawn' by `reviewer`, for `reason` if any.

    `run_id` and `pixel_sha256` are those of the row that was looked at; `is_blind`: without its
    scores and gates.

    Raises:
        CatalogError: another verdict, or a name or reason that is too long, empty, or holds
            characters that act.
    """

    image_id: str
    verdict: str
    reviewer: str
    reason: str | None = None
    run_id: str
    pixel_sha256: str
    is_blind: bool = False

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise CatalogError(
                f"{self.verdict[:80]!r} is no verdict", remedy=f"Give one of {', '.join(VERDICTS)}"
            )
        object.__setattr__(self, "reviewer", reviewer_of(self.reviewer))
        object.__setattr__(self, "reason", reason_of(self.reason))

    @property
    def review_id(self) -> str:
        """Digest of image and reviewer: among verdicts with one id the latest stands."""
        return digest(["review", self.image_id, self.reviewer])


def reviewer_of(text: str) -> str:
    """Return a reviewer's name: composed letters (NFC), single spaces.

    Raises:
        CatalogError: none, longer than `LONGEST_NAME`, or with characters that act.
    """
    name = _clean(text, "the reviewer's name", LONGEST_NAME)
    if not any(map(str.isalnum, name)):
        raise CatalogError("the reviewer has no name", remedy="Give one, such as 'Dr. Ada Okafor'")
    return name


def reason_of(text: str | None) -> str | None:
    """Return a reason likewise; None where nothing is said.

    Raises:
        CatalogError: longer than `LONGEST_REASON`, or with characters that act.
    """
    return _clean(text or "", "the reason", LONGEST_REASON) or None


def record_review(
    place: Where,
    review: Review,
    *,
    now: datetime,
    code_version: str,
    retry: Retry | None = None,
) -> bool:
    """Append a verdict; return whether it is new: one that stands already is left as it is.

    Any number may write at a time. Two verdicts of one person on one image at once become two
    events, one after the other.

    Raises:
        CatalogError: the catalog cannot be written, or others won every attempt.
    """
    app_id, new = f"review-{review.review_id}", False

    def missing(snapshot: DeltaTable) -> Addition | None:
        nonlocal new
        last = snapshot.transaction_version(app_id)
        standing = None if last is None else _latest(snapshot, place, review.review_id)
        wanted = None if review.verdict == WITHDRAWN else (review.verdict, review.reason)
        new = standing != wanted
        if not new:
            return None
        event = 0 if last is None else last + 1
        row = {
            "image_id": review.image_id,
            "verdict": review.verdict,
            "reviewer": review.reviewer,
            "reason": review.reason,
            "reviewed_at": now,
            "review_id": review.review_id,
            "event": event,
            "run_id": review.run_id,
            "pixel_sha256": review.pixel_sha256,
            "is_blind": review.is_blind,
            "code_version": code_version,
        }
        key: dict[str, str | int] = {"review_id": review.review_id, "event": event}
        action = put_rows(place, "reviews", typed_rows([row], "reviews"), key=key)
        return Addition(actions=[action], app_id=app_id, app_version=event, note=key)

    commit_missing(Snapshots(place, "reviews"), missing, retry=retry)
    return new


def fresh_events(place: Where, known: Collection[str] = ()) -> tuple[pa.Table, frozenset[str]]:
    """Return the newest verdicts, those in files other than `known`, and the files of all.

    Raises:
        CatalogError: it cannot be read.
    """
    try:
        snapshot = open_table(place, "reviews")
    except CatalogError as error:
        if isinstance(error.__cause__, TableNotFoundError):
            return REVIEWS.empty_table(), frozenset()
        raise
    files = _files(snapshot, place)
    paths = files.listed["path"].to_pylist()
    return _rows(files, place, [path not in known for path in paths]), frozenset(paths)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Two reviewers on the images that both judged.

    `kappa`: Cohen's, agreement beyond what their own shares of 'accepted' give by chance; 1 whole,
    0 none; None where either gave one verdict to all (Cohen 1960, Educ. Psychol. Meas. 20:37).
    """

    reviewers: tuple[str, str]
    images: int
    agreed: int
    kappa: float | None


def agreements(verdicts: Iterable[tuple[str, str, str]]) -> list[Agreement]:
    """Return how pairs of reviewers agree, of (image_id, reviewer, verdict) that stand."""
    by_reviewer: dict[str, dict[str, bool]] = {}
    for image_id, reviewer, verdict in verdicts:
        by_reviewer.setdefault(reviewer, {})[image_id] = verdict == ACCEPTED
    found = []
    for first, second in combinations(sorted(by_reviewer), 2):
        one, other = by_reviewer[first], by_reviewer[second]
        shared = sorted(one.keys() & other.keys())
        if shared:
            pairs = np.array([(one[i], other[i]) for i in shared], bool)
            agreed = int((pairs[:, 0] == pairs[:, 1]).sum())
            chance = float(np.prod(pairs.mean(0)) + np.prod(1 - pairs.mean(0)))
            varied = (pairs.any(0) & ~pairs.all(0)).all()
            kappa = (agreed / len(shared) - chance) / (1 - chance) if varied else None
            found.append(Agreement(reviewers=(first, second), images=len(shared),
                                   agreed=agreed, kappa=kappa))  # fmt: skip
    return found


def _clean(text: str, what: str, longest: int) -> str:
    clean = " ".join(filter(None, unicodedata.normalize("NFC", text).split(" ")))
    if one_line(clean) != clean:
        raise CatalogError(
            f"{what} holds characters that show nothing: {clean[:200]!r}",
            remedy="Give letters, digits and signs in one line",
        )
    if len(clean) > longest:
        raise CatalogError(f"{what} has {len(clean)} characters", remedy=f"Give at most {longest}")
    return clean


def _latest(snapshot: DeltaTable, place: Where, review_id: str) -> tuple[str, str | None] | None:
    """Return verdict and reason of the latest event; None where it was withdrawn, or is not found.

    Read from the files that are named after it; from all where another tool rewrote them.
    """
    files = _files(snapshot, place)
    stem = stem_of("reviews", {"review_id": review_id})
    named = [path.startswith(stem) for path in files.listed["path"].to_pylist()]
    rows = _rows(files, place, named if any(named) else [True] * len(named))
    rows = rows.filter(pc.equal(rows["review_id"], review_id)).sort_by("event")
    if not len(rows):
        return None
    verdict, reason = (rows[name][-1].as_py() for name in ("verdict", "reason"))
    return None if verdict == WITHDRAWN else (verdict, reason)


def _files(snapshot: DeltaTable, place: Where) -> Files:
    store_files = filesystem(place, "reviews")
    return Files(listed=listed_files(snapshot), schema=REVIEWS, filesystem=store_files)


def _rows(files: Files, place: Where, kept: list[bool]) -> pa.Table:
    with reading(place, files):
        rows = files.dataset(np.array(kept, bool)).to_table()
        rows.validate(full=True)
    return rows
