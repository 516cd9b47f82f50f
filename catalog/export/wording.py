"""Sentences about an export that card and Croissant share."""

from catalog.export.facts import Facts

NOT_REAL = (
    "Synthetic images, not real patients: every image was drawn by a generative model, none was"
    " photographed or scanned."
)
TEST_ON_REAL = "Test on real images only, of patients whose images no generator learnt from."
LIMITS = (
    "Not for diagnosis.",
    "A generator can repeat images that it learnt from. Synthetic does not mean anonymous: ask for"
    " the audit of copies before sharing.",
    "Classes are what the generator was asked for; no expert has confirmed them image by image.",
    "Rare findings that were not among the training images are not among these.",
)


def licences_of(facts: Facts) -> list[str]:
    """Return the licences of the generators, each once; 'unknown' where none is registered."""
    return sorted({str(row["licence"]) for row in facts.models if row["licence"]}) or ["unknown"]


def method_of(facts: Facts) -> str:
    """Return how the images came to be, in one sentence."""
    methods = ", ".join(facts.values("method"))
    return (
        f"Drawn by {len(facts.counts['model_id'])} generative models (methods: {methods}) with"
        f" {len(facts.recipes)} recipes, and chosen from a catalog by {facts.where!r}."
    )
