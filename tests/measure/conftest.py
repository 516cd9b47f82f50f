"""The cells and the network of the evaluation, which measures see too."""

from tests.evaluate.conftest import cells, tiny_space

__all__ = ["cells", "tiny_space"]
