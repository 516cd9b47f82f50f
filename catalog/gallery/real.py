"""Real images beside drawn ones: off by default, because they are patients' images.

Only the images of the data set that the one who starts the server names, by their ids there.
"""

from catalog.gallery.pictures import png_bytes
from catalog.strip import source_image


def real_png(data: str | None, image_id: str) -> bytes:
    """Return a real image as PNG.

    Raises:
        DataError: no such image, or no data set was named.
    """
    return png_bytes(source_image(data, image_id))
