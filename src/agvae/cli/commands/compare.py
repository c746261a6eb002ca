"""`agvae compare`: a picture beside the decoded picture of its .agv file."""

import argparse
from pathlib import Path

from agvae.cli.commands.decompress import Codecs
from agvae.cli.jobs import Job, check_folders
from agvae.cli.streams import read, say, write


def compare(options: argparse.Namespace) -> None:
    """Print rate, PSNR and MS-SSIM of a file. With an output, write both pictures side by side.

    Raises ValueError if the files cannot be read or have different sizes."""
    if options.output:
        check_folders(Job(options.original, options.output))
    data = read(options.file)
    import numpy as np

    from agvae import metrics
    from agvae.codec.bitstream import BitstreamError, Kind, unpack
    from agvae.codec.lossless import decompress_lossless
    from agvae.images import ImageError, encode_image, read_picture

    try:
        original = read_picture(options.original, options.max_pixels).pixels
    except ImageError as error:
        raise ImageError(f"{options.original}: {error}") from error
    height, width = original.shape[:2]
    try:
        file = unpack(data)
        if (file.header.width, file.header.height) != (width, height):
            size = f"{file.header.width}×{file.header.height}"
            raise BitstreamError(
                f"holds a picture of {size}, but the original is {width}×{height}; give its own original"
            )
        if file.header.kind is Kind.LEARNED:
            decoded = Codecs(options).of(file.header.fingerprint).decompress(file, max_pixels=options.max_pixels)
        else:
            decoded = decompress_lossless(file, options.max_pixels)
    except BitstreamError as error:
        raise BitstreamError(f"{options.file}: {error}") from error
    pixels = np.asarray(decoded.convert("RGB"))
    psnr, ms_ssim = metrics.psnr(original, pixels), metrics.ms_ssim(original, pixels)
    say(f"bpp      {metrics.bits_per_pixel(len(data), width, height):.4f} ({len(data)} bytes)")
    say(f"PSNR     {'exact' if psnr == float('inf') else f'{psnr:.2f} dB'}")
    say(f"MS-SSIM  {f'{ms_ssim:.4f}' if ms_ssim == ms_ssim else 'not defined for a picture this small'}")
    if options.output:
        from PIL import Image

        both = Image.fromarray(np.hstack((original, pixels)))
        write(options.output, encode_image(both, Path(options.output).suffix)[0])
        say(f"{options.output}: the original, and the decoded picture to its right")
