"""Options of the class-conditional method: where masks come from, if a network is shown any."""

from typing import Literal

from factory.sample.method_options import MethodOptions


class ClassConditionalOptions(MethodOptions):
    """A recipe holds them, so that its images can be drawn again."""

    masks: Literal["none", "reference"] = "none"
    """'reference': each image is drawn over the mask of a real one, whose mask it then has."""

    @property
    def shows_references(self) -> bool:
        """Whether any real image's mask is shown; its pixels never are."""
        return self.masks == "reference"

    @property
    def reads_masks(self) -> bool:
        """The same: nothing else of a reference is used."""
        return self.shows_references
