"""Sheets of pictures with captions, and the font and colors that sheets and films share."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from genrefine.errors import GenrefineError

PAPER = (250, 249, 246)
INK = (45, 48, 56)


def caption_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font of captions at a height in pixels; it comes with PIL, so no system font is needed."""
    return ImageFont.load_default(size=size)


def image_grid(
    images: Sequence[Image.Image],
    *,
    columns: int | None = None,
    labels: Sequence[str] | None = None,
    scale: int = 1,
    gap: int = 8,
) -> Image.Image:
    """Lay pictures out as a contact sheet on a quiet background.

    Args:
        images: pictures; smaller ones are centered in cells of the largest size.
        columns: pictures per row; default is the nearest to a square sheet.
        labels: one caption below each picture, broken at slashes and spaces to fit.
        scale: whole factor by which pictures are enlarged, without smoothing.
        gap: pixels between and around cells.

    Raises:
        GenrefineError: no pictures, a number of labels that differs from theirs, or a factor below 1.
    """
    if not images:
        raise GenrefineError("a grid needs at least one picture; got none")
    if labels is not None and len(labels) != len(images):
        raise GenrefineError(f"a grid needs one label per picture; got {len(labels)} for {len(images)} pictures")
    if scale < 1 or (columns is not None and columns < 1):
        raise GenrefineError(f"scale and columns must be at least 1; got {scale} and {columns}")
    columns = min(columns or _square_columns(len(images)), len(images))
    rows = -(-len(images) // columns)
    width = max(image.width for image in images) * scale
    height = max(image.height for image in images) * scale
    font = caption_font(max(10, min(15, width // 10)))
    captions = [_wrap(label, font, width) for label in labels] if labels is not None else []
    line_height = round(_height(font) * 1.25)
    caption_height = max((len(lines) for lines in captions), default=0) * line_height
    caption_height += gap // 2 if captions else 0
    step_x, step_y = width + gap, height + caption_height + gap
    sheet = Image.new("RGB", (columns * step_x + gap, rows * step_y + gap), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, image in enumerate(images):
        left, top = gap + index % columns * step_x, gap + index // columns * step_y
        enlarged = enlarge(image.convert("RGB"), scale)
        sheet.paste(enlarged, (left + (width - enlarged.width) // 2, top + (height - enlarged.height) // 2))
        for number, line in enumerate(captions[index] if captions else ()):
            place = (left + width / 2, top + height + gap // 2 + number * line_height)
            draw.text(place, line, INK, font, anchor="ma")
    return sheet


def enlarge(image: Image.Image, scale: int) -> Image.Image:
    """Repeat every pixel `scale` times in both directions."""
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def _square_columns(count: int) -> int:
    columns = 1
    while columns * columns < count:
        columns += 1
    return columns


def _height(font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> float:
    return float(font.getbbox("Ag")[3])


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Break a caption after slashes and spaces so that its lines fit; a word too long for a line is cut short."""
    words = text.replace("/", "/ ").split()
    lines: list[str] = []
    for word in words:
        joined = lines[-1] + ("" if lines[-1].endswith("/") else " ") + word if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return [_shorten(line, font, width) for line in lines]


def _shorten(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    while len(line) > 1 and font.getlength(line + "...") > width:
        line = line[:-1]
    return line + "..."
