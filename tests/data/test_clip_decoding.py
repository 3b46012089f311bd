"""Which frames of a film a clip takes, for every container and rate, and what is refused."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from films import grey_frames, moving_picture, numbers_of, video
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from genrefine.data import films as films_module
from genrefine.data.clip_decoding import ClipDecoder
from genrefine.data.films import Shot
from genrefine.errors import GenrefineError

VIDEOS = ["mp4", "webm", "mkv", "avi"]
PICTURES = ["webp", "gif", "png"]


def film(kind: str, num_frames: int) -> bytes:
    """Return a film of 10 frames a second."""
    return video(num_frames, 10, kind) if kind in VIDEOS else moving_picture(num_frames, kind, 100)


def expected_frames(num_film: int, film_rate: Fraction, num_frames: int, rate: Fraction, start: Fraction) -> list[int]:
    """Return what shows at each time, the slow way: the last frame that has begun, one millisecond late allowed."""
    times = [start + k / rate for k in range(num_frames)]
    late = Fraction(1, 1000)
    return [
        max(j for j in range(num_film) if j / film_rate <= t + late) for t in times if t + late < num_film / film_rate
    ]


@pytest.mark.parametrize("kind", VIDEOS + PICTURES)
def test_without_a_rate_a_clip_is_the_first_frames_or_the_middle_ones(kind: str):
    content = film(kind, 21)
    assert numbers_of(ClipDecoder(size=None).frames(content, "x")) == list(range(17))
    assert numbers_of(ClipDecoder(5, None, segment="middle").frames(content, "x")) == list(range(8, 13))


@pytest.mark.parametrize("kind", VIDEOS + PICTURES)
@pytest.mark.parametrize("rate", [2.5, 4, 10, 25])
def test_a_rate_repeats_frames_or_leaves_them_out(kind: str, rate: float):
    content = film(kind, 21)
    found = numbers_of(ClipDecoder(5, frames_per_second=rate).frames(content, "x"))
    assert found == expected_frames(21, Fraction(10), 5, Fraction(rate), Fraction(0))


class NumberedFilm:
    """Frames of one rate, as numbers."""

    def __init__(self, num_frames: int, rate: Fraction) -> None:
        self.num_frames, self.rate, self.duration = num_frames, rate, num_frames / rate

    def times(self) -> tuple[list[Fraction], Fraction]:
        return [j / self.rate for j in range(self.num_frames)], self.num_frames / self.rate

    def shots(self, start: Fraction):
        for j in range(self.num_frames):
            yield Shot(j / self.rate, (j + 1) / self.rate, lambda j=j: Image.new("RGB", (4, 4), (j, j, j)))


@settings(deadline=None, max_examples=60)
@given(
    num_film=st.integers(1, 40),
    film_rate=st.fractions(1, 60, max_denominator=10),
    num_frames=st.integers(1, 20),
    rate=st.fractions(1, 60, max_denominator=10),
    segment=st.sampled_from(["first", "middle"]),
)
def test_any_rates_give_what_shows_at_each_time(num_film, film_rate, num_frames, rate, segment):
    source = NumberedFilm(num_film, film_rate)
    decoder = ClipDecoder(num_frames, None, float(rate), segment)
    exact = Fraction(float(rate)).limit_denominator(100_000)
    start = max(Fraction(0), (source.duration - num_frames / exact) / 2) if segment == "middle" else Fraction(0)
    found = [np.asarray(image)[0, 0, 0] for image in decoder._choose(source)]
    assert found == expected_frames(num_film, film_rate, num_frames, exact, start)


def test_a_clip_from_the_middle_of_a_long_video_is_found_by_seeking(monkeypatch: pytest.MonkeyPatch):
    content = video(60, 30, "mp4")  # one key frame in each 12 frames would be usual; here only the first is sure
    decoded = []
    original = films_module._to_image
    monkeypatch.setattr(films_module, "_to_image", lambda frame: decoded.append(frame) or original(frame))
    found = ClipDecoder(9, None, frames_per_second=15, segment="middle").frames(content, "x")
    assert numbers_of(found) == list(range(21, 39, 2))
    assert len(decoded) == 9  # no other frame is turned to a picture


def test_no_more_is_decoded_than_needed(monkeypatch: pytest.MonkeyPatch):
    seen = []
    original = films_module.Film._check
    monkeypatch.setattr(films_module.Film, "_check", lambda *size: seen.append(size) or original(*size))
    ClipDecoder(5, None).frames(video(60, 30, "webm"), "x")
    assert len(seen) <= 7  # the header, five frames and one that ends the fifth


@pytest.mark.parametrize("kind", ["mp4", "webp"])
def test_short_films_are_refused_or_their_last_frame_is_held(kind: str):
    content = film(kind, 6)
    with pytest.raises(GenrefineError, match=r"clip 'x' must have 8 frames; got 6; .* short='hold'"):
        ClipDecoder(8).frames(content, "x")
    assert numbers_of(ClipDecoder(8, short="hold").frames(content, "x")) == [0, 1, 2, 3, 4, 5, 5, 5]
    with pytest.raises(GenrefineError, match=r"must have 5 frames at 5 a second; got 3"):
        ClipDecoder(5, frames_per_second=5).frames(content, "x")


def test_frames_are_cropped_resized_and_in_range():
    pixels = ClipDecoder(3, (8, 16)).pixels(video(5, 30, "mkv"), "x")
    assert pixels.shape == (3, 3, 8, 16)
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels[:, 2], torch.full((3, 8, 16), 8 / 127.5 - 1), atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", PICTURES)
def test_transparent_films_are_flattened_on_the_background(kind: str):
    content = io.BytesIO()
    frames = [Image.new("RGBA", (8, 8), (0, 0, 0, 0)) for _ in range(3)]
    for number, frame in enumerate(frames):
        frame.putpixel((number, 0), (0, 0, 255, 255))
    frames[0].save(content, kind, save_all=True, append_images=frames[1:], duration=100, disposal=2)
    for color, level in (("white", (255, 255, 255)), ("red", (255, 0, 0))):
        found = ClipDecoder(3, None, background=color).frames(content.getvalue(), "x")
        assert [frame.getpixel((7, 7)) for frame in found] == [level] * 3


def test_a_video_is_turned_upright(tmp_path: Path):
    lying = Image.new("RGB", (32, 16), "black")
    lying.paste("white", (0, 0, 16, 16))
    with av.open(str(tmp_path / "a.mp4"), "w") as film:
        stream = film.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for _ in range(3):
            film.mux(stream.encode(av.VideoFrame.from_image(lying)))
        film.mux(stream.encode())
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    place = content.find(b"\x00\x01\x00\x00" + bytes(12) + b"\x00\x01\x00\x00", content.find(b"tkhd"))
    turn = [0, 1, 0, -1, 0, 0, 0, 0, 16384]
    matrix = b"".join((n * (1 if n == 16384 else 65536)).to_bytes(4, "big", signed=True) for n in turn)
    matrix = matrix[:32] + (0x40000000).to_bytes(4, "big")
    content[place : place + 36] = matrix
    frame = ClipDecoder(1, None).frames(bytes(content), "x")[0]
    assert frame.size == (16, 32)  # a quarter to the right: left becomes top
    assert frame.getpixel((8, 4))[0] > 200
    assert frame.getpixel((8, 28))[0] < 50


@pytest.mark.parametrize("kind", ["mp4", "webp"])
def test_large_films_are_refused_by_their_header(kind: str, monkeypatch: pytest.MonkeyPatch):
    content = film(kind, 3)
    monkeypatch.setattr(films_module.Film, "shots", lambda *_: pytest.fail("something was decoded"))
    with pytest.raises(GenrefineError, match=r"clip 'big' has more than 0.0005 megapixels; reduce it first"):
        ClipDecoder(3, max_pixels=500).frames(content, "big")


@pytest.mark.parametrize("kind", VIDEOS + PICTURES)
@pytest.mark.parametrize("part", [0.0, 0.02, 0.3, 0.6])
def test_a_cut_film_gives_one_line(kind: str, part: float):
    content = film(kind, 17)
    with pytest.raises(GenrefineError, match="clip 'cut'") as error:
        ClipDecoder(17).frames(content[: int(part * len(content))], "cut")
    assert "\n" not in str(error.value)


def test_sound_playlists_and_missing_files_get_one_line(tmp_path: Path):
    sound = io.BytesIO()
    with av.open(sound, "w", format="mp4") as film:
        stream = film.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        film.mux(stream.encode(frame))
        film.mux(stream.encode())
    (tmp_path / "secret.mp4").write_bytes(video(20, 10))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{tmp_path}/secret.mp4\n#EXT-X-ENDLIST\n"
    for encoded, message in (
        (sound.getvalue(), "clip 'x' holds no pictures"),
        (playlist.encode(), "cannot read clip 'x'"),
        (tmp_path / "none.mp4", r"cannot read clip 'x' \(No such file"),
        (tmp_path, r"cannot read clip 'x' \(Is a directory"),
    ):
        with pytest.raises(GenrefineError, match=message):
            ClipDecoder().frames(encoded, "x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 0}, "num_frames must be at least 1; got 0"),
        ({"frames_per_second": 0}, "frames_per_second must be more than 0"),
        ({"frames_per_second": float("nan")}, "frames_per_second must be more than 0"),
        ({"segment": "last"}, "segment must be 'first' or 'middle'; got 'last'"),
        ({"short": "loop"}, "short must be 'raise' or 'hold'; got 'loop'"),
        ({"size": 0}, "size must be at least 1"),
        ({"background": "colorless"}, "background must be a color"),
    ],
)
def test_wrong_settings_get_one_line(options: dict, message: str):
    with pytest.raises(GenrefineError, match=message):
        ClipDecoder(**options)


def test_grey_frames_are_what_these_tests_take_them_for():
    assert numbers_of(grey_frames(5)) == [0, 1, 2, 3, 4]
