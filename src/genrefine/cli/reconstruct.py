"""`genrefine reconstruct`: a picture through the visual tokenizer and back."""

import argparse
import math
from pathlib import Path

from genrefine.cli.answers import say, write_json
from genrefine.cli.loading import load_tokenizer
from genrefine.cli.options import add_device_option, add_dtype_option, add_json_option, add_model_option
from genrefine.errors import GenrefineError

_SMALLEST_SSIM_SIDE = 11  # its Gaussian window


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options of the verb."""
    parser.add_argument("picture", type=Path, metavar="IMG", help="a picture of any size and format")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="the reconstruction, a .png")
    parser.add_argument("--background", default="white", help="color under transparent pixels (default: white)")
    add_json_option(parser)
    add_model_option(parser, "pipeline or tokenizer folder")
    add_device_option(parser)
    add_dtype_option(parser)


def run(options: argparse.Namespace) -> None:
    """Encode, decode, measure."""
    from genrefine.files import require_writable
    from genrefine.media.pixels import from_pil, to_pil
    from genrefine.media.writing import save_png

    if options.output.suffix.lower() != ".png":
        raise GenrefineError(f"the reconstruction is written as .png; got '{options.output}'")
    for path in (options.output, options.json):
        if path:
            require_writable(path)

    import torch.nn.functional as F

    from genrefine.data.decoding import PictureDecoder
    from genrefine.evaluation.pixels import psnr, ssim

    original = from_pil(PictureDecoder(background=options.background).picture(options.picture, str(options.picture)))
    tokenizer = load_tokenizer(options.model, options.device, options.dtype)
    height, width = original.shape[3:]
    stride = tokenizer.spatial_stride
    # The tokenizer needs whole positions: repeat the last row and column, and cut them off again.
    padding = (0, -width % stride, 0, -height % stride)
    padded = F.pad(original[:, :, 0], padding, mode="replicate")[:, :, None]
    codes = tokenizer.encode(padded.to(tokenizer.device, tokenizer.dtype))
    pixels = tokenizer.decode(codes).float().cpu()[..., :height, :width]
    num_bits = codes.numel() * tokenizer.hbq.bits_per_code
    found = {
        "height": height,
        "width": width,
        "psnr": float(psnr(pixels, original)),
        "ssim": float(ssim(pixels, original)) if min(height, width) >= _SMALLEST_SSIM_SIDE else None,
        "bits": num_bits,
        "bits_per_pixel": num_bits / (height * width),
    }
    found = {key: None if value == math.inf else value for key, value in found.items()}
    save_png(to_pil(pixels)[0], options.output, {"model": options.model, "picture": str(options.picture), **found})
    if options.json:
        record = {"model": options.model, "picture": str(options.picture), **found, "files": [str(options.output)]}
        write_json(options.json, record)
    padding_note = f", padded to {padded.shape[4]} x {padded.shape[3]}" if any(padding) else ""
    say(f"{options.picture}: {width} x {height} pixels{padding_note}")
    say(f"PSNR            {'infinite' if found['psnr'] is None else format(found['psnr'], '.2f') + ' dB'}")
    say(f"SSIM            {'needs 11 pixels a side' if found['ssim'] is None else format(found['ssim'], '.4f')}")
    say(f"bits per pixel  {found['bits_per_pixel']:.3f} ({num_bits} bits; 24 per pixel in RGB)")
