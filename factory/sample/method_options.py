"""What the options of every method have in common; each method owns its own."""

from factory.config import Frozen


class MethodOptions(Frozen):
    """Base of the options of one method."""

    @property
    def shows_references(self) -> bool:
        """Whether each image starts from, or is led by, a real one."""
        return False

    @property
    def reads_masks(self) -> bool:
        """Whether the references' masks are shown too."""
        return False
