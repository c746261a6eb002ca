"""The container: it returns exactly the data that it was given, and no other file decodes to a picture."""

import contextlib
import io
import subprocess
import sys
import time
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from conftest import lively_model
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from agvae import cli
from agvae.codec import BitstreamError, Codec, bitstream, model_file, tiling
from agvae.codec.bitstream import Header, Kind, pack, unpack
from agvae.entropy.coder import Encoder
from agvae.images import MAX_PIXELS, picture_of
from agvae.models.context import CONTEXTS
from agvae.quality import EXTRA_LEVELS, QUALITY_STEPS

SECONDS = 1
"""The processor time within which a bad file is refused."""

MEBIBYTE = 2**20

numbers = st.integers(1, 2**35 - 1)
blocks = st.binary(max_size=300)
common = {"width": numbers, "height": numbers, "grey": st.booleans(), "alpha": blocks, "exif": blocks, "icc": blocks}
learned = {"fingerprint": st.binary(min_size=4, max_size=4), "quality": st.integers(0, 2**35 - 1)}
lossless = {"fingerprint": st.just(b""), "quality": st.just(0), "kind": st.sampled_from([Kind.WEBP, Kind.PNG])}


def headers_of(**fields):
    """Headers with these fields, and defaults for all others."""
    return st.fixed_dictionaries(fields).map(lambda values: Header(**values))


of_version_1 = headers_of(**common, **learned)
headers = st.one_of(
    of_version_1,
    headers_of(**common, **learned, extended=st.just(True)),
    headers_of(**common, **learned, xmp=blocks, text=blocks),
    headers_of(**common, **lossless, xmp=blocks, text=blocks),
)


@pytest.fixture
def codec(tiny_model):
    return Codec(model_file.from_model(tiny_model))


@pytest.fixture
def contextual(tiny_config):
    """A codec with a context. Its first pass already covers the whole picture."""
    tiny_config["context"]["name"] = "checkerboard"
    return Codec(model_file.from_model(lively_model(tiny_config)))


@pytest.fixture
def image(photo):
    return photo.crop((200, 60, 264, 124))


def forge(codec, image, quality=1024, **fields):
    """A file with these fields in its header and a right checksum."""
    header = unpack(codec.compress(image, quality=0, lossless=False)).header._replace(quality=quality, **fields)
    with torch.inference_mode():
        y_bar = codec.model.scale(codec.analyze(image).y, quality / 1024)
        coding = codec.latent_codec.encode(y_bar, quality / 1024, checksum=header.checksum)
    return pack(header, coding.encoder.finish())


# ------------------------------------------------------------- container


@given(headers, st.binary(max_size=300))
def test_unpacking_is_the_inverse_of_packing(header, stream):
    assert unpack(pack(header, stream)) == (header, stream)


@given(headers, st.binary(max_size=40))
@settings(max_examples=50)
def test_every_cut_and_every_addition_is_an_error(header, stream):
    data = pack(header, stream)
    for cut in range(len(data)):
        with pytest.raises(BitstreamError):
            unpack(data[:cut])
    with pytest.raises(BitstreamError, match="announces a body"):
        unpack(data + b"\0")


@given(st.sampled_from([b"", b"AGV\1", b"AGV\2", b"AGV\2\0\0", b"AGV\2\0\1"]), st.binary(max_size=60))
def test_whatever_unpacks_packs_to_the_same_bytes(start, noise):
    """No two files have the same content, so a flipped bit cannot hide in the notation of a number."""
    data = start + noise
    try:
        header, stream = unpack(data)
    except BitstreamError:
        return
    assert pack(header, stream) == data


@given(
    st.integers(1, MAX_PIXELS),
    st.integers(1, MAX_PIXELS),
    st.integers(0, (1023 + EXTRA_LEVELS) * QUALITY_STEPS),
    st.booleans(),
    st.booleans(),
)
def test_the_header_of_a_plain_picture_is_small(width, height, quality, grey, extended):
    """This holds at every size that a decoder accepts, and at every quality of every model."""
    header = Header(b"abcd", width, min(height, MAX_PIXELS // width), quality, grey, extended=extended)
    for length in (10, 2**34):
        assert len(header.to_bytes()) + len(bitstream._to_varint(length)) <= bitstream.HEADER_MAX


@given(headers, headers)
def test_headers_that_differ_start_different_checksums(one, other):
    assert (one == other) == (one.to_bytes() == other.to_bytes())
    assert one.checksum == zlib.crc32(one.to_bytes())


@given(of_version_1, st.binary(max_size=40))
def test_a_file_that_version_1_can_hold_is_of_version_1(header, stream):
    """Older programs can then read it."""
    assert pack(header, stream)[3] == 1


@given(of_version_1, st.sampled_from([{"xmp": b"x"}, {"text": b"x"}, {"extended": True}]))
def test_all_else_is_of_version_2(header, more):
    assert pack(header._replace(**more), b"")[3] == 2


@given(st.builds(Header, **common, **lossless, xmp=blocks, text=blocks), st.binary(max_size=40), st.data())
@settings(max_examples=50)
def test_every_byte_of_a_lossless_file_is_under_its_checksum(header, body, data):
    file = bytearray(pack(header, body))
    file[data.draw(st.integers(0, len(file) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(BitstreamError):
        found = unpack(bytes(file))
        assert found.header.kind is Kind.LEARNED  # whose stream has a checksum of its own


START = b"AGV\1\0abcd"
LOSSLESS = b"AGV\2\0\1\1\1"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "not an AGV file"),
        (b"AGW\1" + bytes(30), "not an AGV file"),
        (b"x", "not an AGV file"),
        (b"AG", "ends after 2 bytes, inside its header"),
        (START[:8], "ends after 8 bytes, inside its header"),
        (START, "number in the header does not end"),
        (b"AGV\3" + START[4:] + b"\1\1\0\5stream", "format version 3, but this version of agvae reads only 1 and 2"),
        (b"AGV\0" + START[4:] + b"\1\1\0\5stream", "format version 0"),
        (b"AGV\1\x10abcd\1\1\0\5hello", "features .flags 0x10."),
        (b"AGV\1\xffabcd\1\1\0\5hello", "features .flags 0xff."),
        (b"AGV\2\x40\0abcd\1\1\0\5hello", "features .flags 0x40."),
        (b"AGV\2\0\3abcd\1\1\0\5hello", "body of the file has a kind .3."),
        (b"AGV\2", "ends after 4 bytes, inside its header"),
        (b"AGV\2\0", "ends after 5 bytes, inside its header"),
        (LOSSLESS + b"\5hello", "checksum does not match"),
        (LOSSLESS + b"\3hel", "checksum does not match"),
        (LOSSLESS + b"\0", "checksum does not match"),
        (LOSSLESS + b"\6hello", "body of 6 bytes, but the file holds 5"),
        (START + b"\0\1\0\5hello", "size of 0×1"),
        (START + b"\1\0\0\5hello", "size of 1×0"),
        (START + b"\x81\0\1\0\5hello", "longer than it needs"),
        (START + b"\1\1\x80\0\5hello", "longer than it needs"),
        (START + b"\1\1\0\x85\0hello", "longer than it needs"),
        (START + b"\xff\xff\xff\xff\xff\1\1\0\5hello", "does not end"),
        (START + b"\1\1\0\6hello", "body of 6 bytes, but the file holds 5"),
        (START + b"\1\1\0\4hello", "body of 4 bytes, but the file holds 5"),
        (START + b"\1\1\0\xff\xff\xff\xff\x7fhello", "body of 34359738367 bytes, but the file holds 5"),
        (b"AGV\1\2abcd\1\1\0\7alpha\0", "announces 7 bytes of alpha"),
        (b"AGV\1\4abcd\1\1\0\0\5hello", "announces 0 bytes of exif"),
        (b"AGV\1\x08abcd\1\1\0\xff\xff\xff\xff\x7fhello", "announces 34359738367 bytes of icc"),
        (b"AGV\2\x10\0abcd\1\1\0\7xmp\0", "announces 7 bytes of xmp"),
        (b"AGV\2\x20\1\1\1\7text\0", "announces 7 bytes of text"),
    ],
)
def test_what_is_wrong_with_a_container_is_said_in_one_line(data, message):
    with pytest.raises(BitstreamError, match=message) as caught:
        unpack(data)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------- real streams


@pytest.mark.parametrize("context", ["none", "checkerboard"])
def test_no_flipped_bit_gives_a_picture(tiny_config, image, context):
    """This holds for every bit of a file, because the checksum covers header and symbols."""
    tiny_config["context"]["name"] = context
    codec = Codec(model_file.from_model(lively_model(tiny_config)))
    data = codec.compress(image, quality=0.75, lossless=False)
    assert len(data) < 400
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BitstreamError):
            codec.decompress(bytes(damaged))


@pytest.mark.slow
def test_no_flipped_bit_of_alpha_exif_or_profile_gives_a_picture(codec, image):
    image = image.convert("LA")
    image.info["exif"] = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"
    data = codec.compress(image, quality=0, lossless=False)
    header, stream = unpack(data)
    assert header.alpha
    assert header.exif
    for bit in range(8 * (len(data) - len(stream))):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BitstreamError):
            codec.decompress(bytes(damaged))


def test_every_cut_of_a_file_is_an_error(codec, image):
    data = codec.compress(image, quality=1, lossless=False)
    for cut in range(len(data)):
        with pytest.raises(BitstreamError):
            codec.decompress(data[:cut])


def test_a_header_on_another_files_stream_is_an_error(codec, image):
    """It is an error even if all symbols decode, as for pictures of one padded size or two qualities of a picture."""
    data = codec.compress(image, quality=1, lossless=False)
    header, stream = unpack(data)
    for change in ({"width": 63}, {"height": 50}, {"quality": header.quality + 1}, {"grey": True}):
        with pytest.raises(BitstreamError, match="damaged"):
            codec.decompress(pack(header._replace(**change), stream))
    plain = bitstream.pack_alpha(np.full((64, 64), 9, np.uint8))
    with pytest.raises(BitstreamError, match="checksum"):
        codec.decompress(pack(header._replace(alpha=plain), stream))


def test_a_picture_over_the_limit_is_refused(codec, image):
    data = codec.compress(image.resize((100, 80)), quality=1, lossless=False)
    assert codec.decompress(data, max_pixels=8000).size == (100, 80)
    with pytest.raises(BitstreamError, match="100×80 exceeds the limit of 7999 pixels"):
        codec.decompress(data, max_pixels=7999)


def test_a_thin_picture_counts_as_what_it_takes(codec, image):
    data = codec.compress(image.resize((1, 1000)), quality=1, lossless=False)
    assert codec.decompress(data, max_pixels=64_000).size == (1, 1000)
    with pytest.raises(BitstreamError, match="1×1000 exceeds the limit of 63999 pixels"):
        codec.decompress(data, max_pixels=63_999)
    assert codec.decompress(codec.compress(image.resize((1, 1)), quality=0, lossless=False), max_pixels=1).size == (
        1,
        1,
    )


@pytest.mark.parametrize(
    "block", [b"{", b"[]", b'{"a": 1}', b'{"a": {"b": ""}}', b"\xff", b"[" * 10**5], ids=lambda block: str(block[:20])
)
def test_text_that_is_not_an_object_of_strings_is_refused(codec, image, block):
    with pytest.raises(BitstreamError, match="the text is not"):
        codec.decompress(forge(codec, image, text=zlib.compress(block)))


def test_quality_past_the_last_level_is_refused_in_version_1(codec, image):
    header, stream = unpack(codec.compress(image, quality=2, lossless=False))
    with pytest.raises(BitstreamError, match=r"quality 2\.00098, but the last level of the model is 2"):
        codec.decompress(pack(header._replace(quality=2049), stream))
    with pytest.raises(BitstreamError, match=r"quality 4\.00098, but the last level of the model is 2"):
        codec.decompress(pack(header._replace(quality=4097, extended=True), stream))
    with pytest.raises(BitstreamError, match="nothing in it needs that version"):
        codec.decompress(forge(codec, image, quality=2048, extended=True))
    assert codec.decompress(forge(codec, image, quality=2049, extended=True)).size == image.size


# ----------------------------------------------- extras, checksum correct


def png(array, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG", **options)
    return file.getvalue()


GREY = np.random.default_rng(0).integers(256, size=(64, 64), dtype=np.uint8)


def test_forged_files_with_sound_extras_decode(codec, image):
    decoded = codec.decompress(
        forge(codec, image, alpha=png(GREY), exif=zlib.compress(b"II*\0"), icc=zlib.compress(b"x"))
    )
    assert (np.array(decoded)[..., 3] == GREY).all()


@pytest.mark.parametrize(
    "alpha",
    [
        png(GREY[:63]),
        png(np.zeros((5000, 5000), np.uint8)),
        png(np.zeros((64, 64, 3), np.uint8)),
        png(np.zeros((64, 64), np.uint16)),
        png(np.zeros((64, 64), bool)),
        png(GREY)[:-200],
        png(GREY)[:40],
        b"GIF89a" + bytes(20),
        b"x",
    ],
    ids=["lower", "larger", "coloured", "deep", "bits", "cut", "header", "foreign", "short"],
)
def test_alpha_that_is_not_the_pictures_is_refused(codec, image, alpha):
    with pytest.raises(BitstreamError, match="the alpha channel"):
        codec.decompress(forge(codec, image, alpha=alpha))


@pytest.mark.parametrize("name", ["exif", "icc", "xmp", "text"])
@pytest.mark.parametrize(
    "block",
    [
        b"no zlib",
        zlib.compress(b"II*\0")[:-1],
        zlib.compress(b"II*\0") + b"x",
        zlib.compress(bytes(2**24 + 1)),
        zlib.compress(bytes(2**28)),
    ],
    ids=["foreign", "cut", "followed", "large", "bomb"],
)
def test_metadata_that_does_not_inflate_or_to_too_much_are_refused(codec, image, name, block):
    data = forge(codec, image, **{name: block})
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(BitstreamError, match="a block of metadata"):
        codec.decompress(data)
    took, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took < SECONDS
    assert peak < 50 * MEBIBYTE


def test_alpha_over_pillows_own_limit_comes_back(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert (bitstream.unpack_alpha(bitstream.pack_alpha(GREY), 64, 64) == GREY).all()


# --------------------------------------------------------- hostile sizes


def cheapest_z(codec, positions):
    """The most probable symbol of each channel at every position."""
    tables = codec.latent_codec.tables
    rows = zip(tables.z_start, tables.z_start[1:], tables.z_offset, strict=False)
    best = [np.diff(tables.z[start:stop]).argmax() + offset for start, stop, offset in rows]
    return np.repeat(np.array(best, dtype=np.int32)[:, None], positions, 1)


HOSTILE = {
    "2^31 × 2^31": lambda codec: pack(Header(codec.fingerprint, 2**31, 2**31, 0), bytes(60)),
    "1 × 2^28": lambda codec: pack(Header(codec.fingerprint, 1, 2**28, 0), b"\1" * 100_000),
    "2^35 × 1": lambda codec: pack(Header(codec.fingerprint, 2**35 - 1, 1, 0), b"\1" * 60),
    "60 bytes": lambda codec: pack(Header(codec.fingerprint, 16384, 16384, 0), b"\1" * 60),
    "noise": lambda codec: pack(Header(codec.fingerprint, 4096, 4096, 0), np.random.default_rng(0).bytes(100_000)),
    "the same for ever": lambda codec: pack(Header(codec.fingerprint, 4096, 4096, 0), b"\1" * 100_000),
    "ends after z": lambda codec: pack(Header(codec.fingerprint, 2048, 2048, 0), only_z(codec, 32 * 32)),
    "does not end": lambda codec: pack(Header(codec.fingerprint, 64, 64, 0), b"\1" * MEBIBYTE),
}


def only_z(codec, positions):
    encoder = Encoder(codec.latent_codec.tables)
    encoder.push_z(cheapest_z(codec, positions))
    return encoder.finish() + bytes(int(codec.latent_codec.least_bits(1, positions) / 32) * 4)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", ["codec", "contextual"])
def test_hostile_files_end_soon_and_take_little_memory(request, image, name, kind):
    codec = request.getfixturevalue(kind)
    codec.decompress(codec.compress(image, quality=0, lossless=False))  # compiles the kernels
    data = HOSTILE[name](codec)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # waiting threads take processor time on a busy machine
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(BitstreamError) as caught:
        codec.decompress(data)
    took, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    torch.set_num_threads(threads)
    assert "\n" not in str(caught.value)
    assert took < SECONDS
    assert peak < 20 * len(data) + 40 * MEBIBYTE


@pytest.mark.parametrize("context", sorted(CONTEXTS))
def test_features_are_computed_as_far_as_there_are_symbols(tiny_config, context, monkeypatch):
    """If z has its most probable symbols, a few kilobytes can claim to be a picture of any size."""
    tiny_config["context"]["name"] = context
    codec = Codec(model_file.from_model(lively_model(tiny_config)))
    computed, h_s = [], codec.model.h_s.forward
    monkeypatch.setattr(codec.model.h_s, "forward", lambda z: computed.append(z.shape[2] * z.shape[3]) or h_s(z))
    monkeypatch.setattr(tiling, "CPU_WORKSPACE", 2**20)
    encoder = Encoder(codec.latent_codec.tables)
    encoder.push_z(cheapest_z(codec, 64 * 64))
    stream = encoder.finish() + np.random.default_rng(0).bytes(40)
    with pytest.raises(BitstreamError, match="ends before its last symbol"):
        codec.decompress(pack(Header(codec.fingerprint, 4096, 4096, 0), stream))
    assert 0 < sum(computed) < 64 * 64 / 10


MEASURE = """
import resource, sys
from agvae.codec import BitstreamError, Codec
codec = Codec.load(sys.argv[1])
small, *hostile = (open(path, "rb").read() for path in sys.argv[2:])
codec.decompress(small)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for data in hostile:
    try:
        codec.decompress(data)
    except BitstreamError:
        continue
    sys.exit("decoded")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_resident_memory_stays_where_it_was(tiny_config, image, tmp_path):
    """This includes torch's memory, which tracemalloc does not count."""
    tiny_config["context"]["name"] = "checkerboard"
    model = model_file.from_model(lively_model(tiny_config))
    model.save(tmp_path / "model.safetensors")
    codec, paths = Codec(model), []
    for index, data in enumerate(
        (codec.compress(image, quality=0, lossless=False), *(make(codec) for make in HOSTILE.values()))
    ):
        paths.append(tmp_path / f"{index}.agv")
        paths[-1].write_bytes(data)
    command = [sys.executable, "-c", MEASURE, tmp_path / "model.safetensors", *paths]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(run.stdout) * 1024 < 100 * MEBIBYTE


# ---------------------------------------------------------- command line


def test_the_command_says_what_is_wrong_in_one_line(tiny_model, codec, image, tmp_path, capsys):
    model, file = tmp_path / "model.safetensors", tmp_path / "x.agv"
    model_file.from_model(tiny_model).save(model)
    good = codec.compress(image, quality=0, lossless=False)
    wrong = {
        b"": "empty",
        b"\x89PNG\r\n\x1a\n": "not an AGV file",
        good[:-3]: "announces a body",
        good[:-1] + bytes([good[-1] ^ 4]): "damaged",
        good[:5] + b"abcd" + good[9:]: "made by the model 61626364",
        HOSTILE["2^31 × 2^31"](codec): "exceeds the limit of 268435456 pixels",
        HOSTILE["60 bytes"](codec): "cannot hold a picture of 16384×16384",
    }
    for data, message in wrong.items():
        file.write_bytes(data)
        status = cli.main(["decompress", str(file), str(tmp_path / "y.png"), "--model", str(model)])
        _, error = capsys.readouterr()
        assert status == 1
        assert error.count("\n") == 1
        assert str(file) in error
        assert message in error
        assert not (tmp_path / "y.png").exists()


# ----------------------------------------------------------- determinism

COMPRESS = """
import sys, torch
from pathlib import Path
from PIL import Image
from agvae.codec import Codec
torch.set_num_threads(int(sys.argv[1]))
folder = Path(sys.argv[2])
for model in sorted(folder.glob("*.safetensors")):
    codec = Codec.load(model)
    for picture in sorted(folder.glob("*.png")):
        data = codec.compress(Image.open(picture), quality=1.3, lossless=False)
        sys.stdout.buffer.write(data + codec.compress(Image.open(picture), bytes=len(data) + 4, lossless=False))
"""


@pytest.mark.slow
def test_the_number_of_threads_changes_no_byte(tiny_config, photo, tmp_path):
    for name in ("minnen2018", "residual", "depthwise"):
        extra = {"blocks": 1} if name == "depthwise" else {}
        tiny_config["transforms"] = {"name": name, "N": 32, "M": 48, **extra}
        tiny_config["context"]["name"] = "checkerboard" if name == "depthwise" else "none"
        model_file.from_model(lively_model(tiny_config)).save(tmp_path / f"{name}.safetensors")
    for size in ((64, 64), (65, 17), (200, 130)):
        photo.crop((60, 60, 60 + size[0], 60 + size[1])).save(tmp_path / f"{size[0]}.png")
    outputs = [
        subprocess.run([sys.executable, "-c", COMPRESS, str(threads), tmp_path], capture_output=True, check=True).stdout
        for threads in (1, 2, 3)
    ]
    assert len(outputs[0]) > 5_000
    assert len(set(outputs)) == 1


def test_a_picture_gives_the_same_bytes_twice(codec, photo):
    image = picture_of(photo.crop((0, 0, 200, 130)))
    for lossless in (False, True):
        target = {} if lossless else {"quality": 1.1}
        assert len({codec.compress(image, **target, lossless=lossless) for _ in range(2)}) == 1
