"""A Ray-distributed synthetic data factory for medical images.

The packages stand in the order in which data flows:
`real -> finetune -> sample -> gate -> catalog -> evaluate -> search`.
Importing `factory` loads neither torch nor ray; heavy imports live in the modules that use them.
"""

__version__ = "0.1.0"
