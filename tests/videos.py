"""Videos to test with, which keep every pixel."""

import av

_CODECS = {".mkv": ("ffv1", "bgr0"), ".mov": ("png", "rgb24")}


def write_video(path, frames, rate=25, turns=0):
    """Writes (h, w, 3) uint8 frames; a player turns them by some quarters, counter-clockwise."""
    codec, pixel_format = _CODECS[path.suffix]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        if turns:
            stream.set_display_rotation(90 * turns)
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
