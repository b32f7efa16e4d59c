"""A photo file as an RGB image."""

from pathlib import Path

from PIL import Image

from ..base.errors import UserError


def read_photo(path: str | Path) -> Image.Image:
    """The RGB image in a file, decoded in full; UserError naming the file where it is missing, cut off or no image."""
    try:
        with Image.open(path) as image:
            image.load()
            return image if image.mode == "RGB" else image.convert("RGB")
    except FileNotFoundError:
        raise UserError(f"the image {path} is missing") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"the image {path} cannot be read ({error})") from None
