"""Mangles the content of files, as disks, networks and people do."""

import struct
import zlib
from random import Random

NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
"""Numbers that programs misread."""
TEXTS = (
    b"0",
    b"-1",
    b"1e999",
    b"nan",
    b"99999999999999999999",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b"../..",
    b"\0",
    b"\n",
)


def mutated(content: bytes, random: Random, others: list[bytes]) -> bytes:
    """Return the content with one, two or four random changes.

    Args:
        content: content of a real file.
        random: random generator.
        others: contents of other real files, to splice in.
    """
    for _ in range(random.choice((1, 1, 2, 4))):
        content = random.choice(CHANGES)(content, random, others)
    return content


def _flip(content: bytes, random: Random, others: list[bytes]) -> bytes:
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 8, 64)) if changed else 0):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _cut(content: bytes, random: Random, others: list[bytes]) -> bytes:
    return content[: random.randrange(len(content) + 1)]


def _drop(content: bytes, random: Random, others: list[bytes]) -> bytes:
    start = random.randrange(len(content) + 1)
    return content[:start] + content[start + random.choice((1, 4, 100, 1000)) :]


def _repeat(content: bytes, random: Random, others: list[bytes]) -> bytes:
    start = random.randrange(len(content) + 1)
    stop = start + random.choice((1, 4, 100, 1000))
    return content[:stop] + content[start:]


def _splice(content: bytes, random: Random, others: list[bytes]) -> bytes:
    other = random.choice(others)
    return content[: random.randrange(len(content) + 1)] + other[random.randrange(len(other) + 1) :]


def _number(content: bytes, random: Random, others: list[bytes]) -> bytes:
    """Insert an absurd number, mostly near the beginning, where headers are, or near the end, where zip headers are."""
    kind = random.choice(["<B", "<H", ">H", "<I", ">I", "<Q", ">Q"])
    number = struct.pack(kind, random.choice(NUMBERS) % 2 ** (8 * struct.calcsize(kind)))
    reach = random.choice((64, 512, len(content)))
    start = random.randrange(min(reach, len(content)) + 1)
    if random.random() < 0.3:
        start = len(content) - start
    return content[:start] + number + content[start + len(number) :]


def _text(content: bytes, random: Random, others: list[bytes]) -> bytes:
    """Replace a number or word by another text, as in JSON and in the headers of arrays."""
    start = random.randrange(len(content) + 1)
    while start < len(content) and not content[start : start + 1].isalnum():
        start += 1
    stop = start
    while stop < len(content) and content[stop : stop + 1].isalnum():
        stop += 1
    return content[:start] + random.choice(TEXTS) + content[stop:]


CHANGES = (_flip, _flip, _cut, _drop, _repeat, _splice, _number, _number, _text)


def png_of_size(content: bytes, width: int, height: int) -> bytes:
    """Return a PNG whose header states another size, with a correct checksum."""
    header = struct.pack(">II", width, height) + content[24:29]
    return content[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + content[33:]


def jpeg_of_size(content: bytes, width: int, height: int) -> bytes:
    """Return a JPEG whose header states another size."""
    start = next(content.index(bytes((0xFF, kind))) for kind in (0xC0, 0xC2) if bytes((0xFF, kind)) in content)
    return content[: start + 5] + struct.pack(">HH", height & 0xFFFF, width & 0xFFFF) + content[start + 9 :]
