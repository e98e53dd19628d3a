"""Decode image files to RGB pixels: (H, W, 3) uint8, equal to PIL's `convert("RGB")` for images of 8 bits.

16-bit values are reduced to 8 bits by dropping the lower ones, as libpng does; 32-bit and float images have no defined
white level and are refused. EXIF orientation is ignored, as in torchvision. An image whose header declares more than
`max_megapixels` is refused before decoding, because the header alone determines the memory that is allocated.
"""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

Pixels = npt.NDArray[np.uint8]
FAST_COLOURS = ("YCbCr", "RGB", "Gray")
"""JPEG colour spaces that libjpeg-turbo decodes to exactly PIL's pixels; CMYK would differ by one level."""
MAX_MEGAPIXELS = 179.0
"""Pillow's own limit, 2 x Image.MAX_IMAGE_PIXELS; it takes 537 MB. ImageNet's largest image has about 60 megapixels."""
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of unsigned 16-bit images."""
SIXTEEN_BIT_FORMATS = ("PNG", "PPM")
"""Formats whose mode I (32 bits in memory) holds 16-bit values."""


class BrokenImageError(ValueError):
    """An image file cannot be decoded; the message names it."""


def read_image(path: str | Path, max_megapixels: float = MAX_MEGAPIXELS) -> Pixels:
    """Decode the file at `path`; BrokenImageError names the file and the reason."""
    try:
        with open(path, "rb", buffering=0) as stream:  # noqa: PTH123 (a third of the time of Path.read_bytes)
            return decode_image(stream.read(), max_megapixels)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise BrokenImageError(f"{path}: cannot be read as an image ({error}); replace or remove the file") from error


def decode_image(data: bytes, max_megapixels: float = MAX_MEGAPIXELS) -> Pixels:
    """Return the (H, W, 3) RGB pixels of an encoded image; the format is detected from its bytes, not its suffix.

    libjpeg-turbo decodes colour and greyscale JPEGs; CMYK JPEGs and other formats go through PIL.

    Raises:
        ValueError: too many pixels, or values without a defined white level; decoders raise further errors.

    """
    if data[:2] == b"\xff\xd8":
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError:
            colours = ""  # fall back to PIL, which decodes it or reports the error
        if colours in FAST_COLOURS:
            _refuse_large(width, height, max_megapixels)
            try:
                pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB")
            except ValueError:
                pass  # fall back to PIL
            else:
                return pixels
    with open_image(data) as image:
        _refuse_large(*image.size, max_megapixels)
        return _to_rgb(image)


def open_image(data: bytes) -> Image.Image:
    """Return Pillow's image of encoded bytes with only the header read, without Pillow's size limit."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        return Image.open(io.BytesIO(data))
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _refuse_large(width: int, height: int, max_megapixels: float) -> None:
    if width * height > max_megapixels * 1e6:
        raise ValueError(
            f"it declares {width} x {height} pixels, {width * height / 1e6:.0f} megapixels, over the limit of "
            f"max_megapixels={max_megapixels:g}; if the image is valid, raise max_megapixels, which takes "
            f"{3 * width * height / 2**30:.1f} GiB per process"
        )


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode in SIXTEEN_BITS or (image.mode == "I" and image.format in SIXTEEN_BIT_FORMATS):
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F") or image.mode.startswith(("I;", "F;")):
        raise ValueError(
            f"its values are {'32-bit floats' if image.mode[0] == 'F' else '32-bit integers'} (mode {image.mode}), for "
            "which no white is defined; convert it to 8 or 16 bits"
        )
    return np.array(image.convert("RGB"))
