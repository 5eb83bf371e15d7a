"""Damages the bytes of a file as disks, networks and other programs do, and as an attacker would."""

import re
from collections.abc import Callable, Sequence

import numpy as np

Mutation = Callable[[bytes, Sequence[bytes], np.random.Generator], bytes]

# Beyond float64, float32 and 64 bits, too long for int(), and what only Python's JSON takes.
NUMBERS = (
    b"1e999", b"-1e999", b"1e39", b"1e308", b"NaN", b"Infinity", b"-Infinity", b"nan", b"inf", b"0", b"-1",
    b"-0.0",
    b"4294967296", b"18446744073709551616", b"9" * 400, b"9" * 5000, b"0.5", b"1e-320", b"007", b"1_000",
)  # fmt: skip
# Values of another type, and text that few programs expect.
VALUES = (
    b"null", b"true", b"[]", b"{}", b'""', b'"a"', b"[[]]", b'{"a": 1}', b'"\\ud800"', b'"\\u0000"', b"\0",
    b"\xff",
    b"$x_{", b"../../outside", b"/etc/passwd", b" ", b"\n", b"\r", b"\t", b"\xef\xbb\xbf",
    b"%", b"'", b'"', b"-",
)  # fmt: skip
# Openings and closings of nested values in JSON, TOML, YAML and XML.
NESTS = ((b"[", b"]"), (b'{"a":', b"}"), (b"{a=", b"}"), (b"<a>", b"</a>"), (b"- ", b""), (b"(", b")"))
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_TOKEN = re.compile(rb'"[^"\n]{0,80}"|<[^>\n]{0,80}>|[A-Za-z_]+|-?\d+(?:\.\d+)?')
# A token further on in a large file is never drawn; the beginning holds what is worth damaging.
_SEARCHED = 1 << 18


def mutate(data: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """Damages a file in one to three ways.

    Args:
        data: its bytes.
        others: files of the same kind, to splice with.
        rng: chooses.
    """
    for _ in range(1 + rng.choice(3, p=(0.7, 0.2, 0.1))):
        data = _MUTATIONS[rng.integers(len(_MUTATIONS))](data, others, rng)
    return data


def _span(data: bytes, rng: np.random.Generator, most: int = 4096) -> tuple[int, int]:
    """A span of a file; short ones are likelier, and so is the beginning, where headers are."""
    near = max(1, len(data) >> int(rng.choice((0, 0, 4, 8))))
    start = int(rng.integers(near))
    length = int(2 ** rng.uniform(0, np.log2(most)))
    return start, min(start + length, len(data))


def _flip_bits(data: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    for _ in range(int(2 ** rng.uniform(0, 5)) if data else 0):
        start, _ = _span(data, rng)
        damaged[start] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def _truncate(data: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(len(data) + 1))]


def _remove(data: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _repeat(data: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    start, end = _span(data, rng)
    return data[:end] + data[start:end] * int(rng.integers(1, 20)) + data[end:]


def _fill(data: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + rng.choice((b"\0", b"\xff", b" ")) * (end - start) + data[end:]


def _zero_tail(data: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    # A download into a file that was made long enough first, or blocks that a power cut left unwritten.
    start = int(rng.integers(len(data) + 1))
    return data[:start] + bytes(len(data) - start)


def _swap(data: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    (a, b), (c, d) = sorted((_span(data, rng), _span(data, rng)))
    c = max(b, c)
    d = max(c, d)
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _splice(data: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    other = others[rng.integers(len(others))] if others else data
    return data[: int(rng.integers(len(data) + 1))] + other[int(rng.integers(len(other) + 1)) :]


def _extreme_field(data: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """Overwrites 1 to 8 bytes by a number that lengths and sizes seldom are."""
    start, _ = _span(data, rng)
    size = int(rng.choice((1, 2, 4, 8)))
    high = (1 << 8 * size) - 1
    value = int(rng.choice(np.array([0, 1, high, high >> 1, (high >> 1) + 1, high - 1, high >> 4], object)))
    return data[:start] + value.to_bytes(size, str(rng.choice(("little", "big")))) + data[start + size :]


def _replace(data: bytes, pattern: re.Pattern[bytes], by: Sequence[bytes], rng: np.random.Generator) -> bytes:
    matches = list(pattern.finditer(data[:_SEARCHED]))
    if not matches:
        return data + by[rng.integers(len(by))]
    match = matches[rng.integers(len(matches))]
    return data[: match.start()] + by[rng.integers(len(by))] + data[match.end() :]


def _number(data: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    return _replace(data, _NUMBER, NUMBERS, rng)


def _value(data: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    return _replace(data, _TOKEN, VALUES, rng)


def _other_token(data: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """Replaces a token by another one of the file: a number by a name, a name by another."""
    tokens = _TOKEN.findall(data[:_SEARCHED]) or [b""]
    return _replace(data, _TOKEN, tokens, rng)


def _nest(data: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    opening, closing = NESTS[rng.integers(len(NESTS))]
    depth = int(rng.choice((3, 500, 100_000)))
    inside = opening * depth + closing * depth
    return _replace(data, _TOKEN, [inside], rng) if rng.random() < 0.7 else inside


_MUTATIONS: tuple[Mutation, ...] = (
    _flip_bits, _flip_bits, _truncate, _remove, _repeat, _fill, _zero_tail, _swap, _splice, _extreme_field,
    _extreme_field, _number, _number, _value, _value, _other_token, _nest,
)  # fmt: skip
