"""Checkpoint files: written whole or not at all, refused unless every byte is the one written, and never executed.

A file is in the safetensors format: eight bytes with the length of a JSON header, the header, and the bytes of the
tensors. The header begins with the name of the format and a SHA-256 of all other bytes of the file, at a fixed place,
so that nothing is interpreted before the whole is known to be intact. Whatever is no tensor stands in the header as
JSON. There is no pickle and no TorchScript: reading a file runs no code of it.
"""

import contextlib
import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterable
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["CheckpointError", "digest", "kind", "read_checkpoint", "write_checkpoint"]

# The first bytes of every header; then come the digest, DIGEST_SIZE characters, and the rest.
BEGINNING = b'{"__metadata__":{"format":"pgtheory 1","sha256":"'
DIGEST_START = 8 + len(BEGINNING)
DIGEST_SIZE = 64

# The names that the safetensors format gives to dtypes.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

# What a header that is intact, but not one of ours, may make of the code that reads it.
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)


class CheckpointError(ValueError):
    r"""A checkpoint that could not be written, could not be read, or does not fit; the message says which and why.

    After it, the file that stood there before a save, and the trainer that was to be loaded into, are what they were.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     read_checkpoint(file.name)
        Traceback (most recent call last):
        pgtheory._checkpoints.CheckpointError: ... is no checkpoint of pgtheory: it is empty
    """


def write_checkpoint(path: str | os.PathLike[str], tree: Any) -> None:
    """Write a nested structure to a file: all of it or, whatever happens on the way, nothing.

    The bytes go to a temporary file in the same folder, are forced to the disk, and only then take the place of an
    earlier file, in one step. So a reader, or a second writer, sees one whole file or another. A process that is
    killed on the way may leave the temporary file behind, `.pgtheory-*.tmp`, which is never read.

    Args:
        path: the file; where it is a symbolic link, the file that it leads to.
        tree: dicts with keys of text or integers, lists and tuples, of tensors, numbers, text, booleans and None. The
            same tree gives the same bytes, in whatever order its dicts were filled.

    Raises:
        CheckpointError: the file could not be written, such as on a full disk; `tree` holds something else.
        TypeError: `path` is no path.

    Source:
        Pillai et al., "All File Systems Are Not Created Equal: On the Complexity of Crafting Crash-Consistent
        Applications", 2014 (why the file is forced to the disk before it is renamed).

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_checkpoint(folder + "/one", {"theta": torch.ones(2), "betas": (0.9, 0.99)})
        ...     read_checkpoint(folder + "/one")
        {'betas': (0.9, 0.99), 'theta': tensor([1., 1.])}
    """
    shown, target = _checked(path), Path(os.path.realpath(path))
    try:
        chunks = _encoded(tree)
    except MALFORMED as error:
        raise CheckpointError(f"{shown} was not written: {error}") from error
    temporary = target.with_name(f".pgtheory-{secrets.token_hex(8)}.tmp")
    try:
        _write(temporary, chunks)
        os.replace(temporary, target)
    except OSError as error:
        raise CheckpointError(f"{shown} was not written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    _force_folder(target.parent)


def read_checkpoint(path: str | os.PathLike[str]) -> Any:
    """Read what `write_checkpoint` wrote, after its checksum has been found right.

    Args:
        path: the file.

    Returns:
        The tree, with its tensors on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is no checkpoint, is damaged or incomplete, or cannot be read.
        TypeError: `path` is no path.

    Source:
        The format: Hugging Face, safetensors, README, section "Format".
    """
    shown = _checked(path)
    data = _read(shown, path)
    digest = data[DIGEST_START : DIGEST_START + DIGEST_SIZE]
    if digest != _digest((data[:DIGEST_START], data[DIGEST_START + DIGEST_SIZE :])):
        raise CheckpointError(f"{shown} is damaged or incomplete: its SHA-256 is not the one that is written in it")
    try:
        return _decoded(data)
    except MALFORMED as error:
        raise CheckpointError(f"{shown} has a checksum that is right, but is not well formed: {error}") from error


def kind(value: Any) -> str:
    """The dtype and the shape of a tensor, as text; the type of anything else."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__


def digest(tensors: list[Tensor]) -> str:
    """The beginning of a SHA-256 of tensors: their dtypes, shapes and bytes."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(kind(tensor).encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"SHA-256 {total.hexdigest()[:16]}"


def _checked(path: object) -> str:
    """The path as a text for messages."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a string or a path, not {type(path).__name__}")
    if "\0" in (shown := str(path)):
        raise CheckpointError(f"path is {shown!r}: no file has such a name")
    return shown


def _write(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Make a new file, and return when its bytes are on the disk."""
    with open(path, "xb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _force_folder(folder: Path) -> None:
    """Force the new name to the disk too, where the system can: without it, a crash may bring back the old file."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _read(shown: str, path: str | os.PathLike[str]) -> bytes:
    """The bytes of the file, whose rest is not read unless it begins as ours do."""
    try:
        with open(path, "rb") as file:
            start = file.read(DIGEST_START)
            if start[8:] != BEGINNING:
                raise CheckpointError(f"{shown} is no checkpoint of pgtheory{_likeness(start)}")
            return start + file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(f"{shown} cannot be read: {error.strerror or error}") from error


def _likeness(start: bytes) -> str:
    """What a foreign file looks like, where that is known."""
    if not start:
        return ": it is empty"
    if start[8:9] == b"{":
        return " 1, but looks like another safetensors file"
    if start.startswith((b"PK", b"\x80")):
        return ": it looks like a file of torch.save or numpy.savez, which is not read, since it may execute code"
    return ""


def _digest(parts: Iterable[bytes | memoryview]) -> bytes:
    """The SHA-256 of the parts, as hexadecimal text."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest().encode()


def _encoded(tree: Any) -> list[bytes | memoryview]:
    """The bytes of the file, in pieces: the tensors are not copied."""
    tensors: dict[str, Tensor] = {}
    # A JSON text inside of the JSON text of the header: the format has only texts among its metadata.
    metadata = {"format": "pgtheory 1", "sha256": "", "tree": _dumped(_outline(tree, "", tensors))}
    # The widest first, so that each begins at a multiple of its own width.
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    ends = [0, *accumulate(tensors[name].nbytes for name in names)]
    entries = {name: _entry(tensors[name], *ends_of) for name, ends_of in zip(names, pairwise(ends), strict=True)}
    rest = _dumped({"__metadata__": metadata} | entries).encode()[len(BEGINNING) :]
    rest += b" " * (-(len(BEGINNING) + DIGEST_SIZE + len(rest)) % 8)
    start = (len(BEGINNING) + DIGEST_SIZE + len(rest)).to_bytes(8, "little") + BEGINNING
    contents: list[bytes | memoryview] = [rest, *(_bytes(tensors[name]) for name in names)]
    return [start, _digest([start, *contents]), *contents]


def _dumped(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _entry(tensor: Tensor, begin: int, end: int) -> dict[str, Any]:
    return {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}


def _outline(tree: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The tree as JSON, in which a tensor is its name; the tensors themselves are collected under their names."""
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if isinstance(tree, Tensor):
        return {"tensor": _collected(tree, name, tensors)}
    if isinstance(tree, dict):
        keys = sorted((_key(key, name) for key in tree), key=lambda key: (isinstance(key, str), key))
        return {"dict": [[key, _outline(tree[key], _inside(name, key), tensors)] for key in keys]}
    if isinstance(tree, list | tuple):
        entries = [_outline(x, _inside(name, i), tensors) for i, x in enumerate(tree)]
        return entries if isinstance(tree, list) else {"tuple": entries}
    raise TypeError(f"{name} is of the type {type(tree).__name__}, which no checkpoint can hold")


def _collected(tensor: Tensor, name: str, tensors: dict[str, Tensor]) -> str:
    if tensor.dtype not in DTYPE_NAMES or tensor.layout != torch.strided:
        raise TypeError(f"{name} is a tensor of {tensor.dtype} and {tensor.layout}, which no checkpoint can hold")
    while name in tensors or name in ("", "__metadata__"):
        name += "_"
    tensors[name] = tensor.detach()
    return name


def _inside(name: str, key: object) -> str:
    return f"{name}.{key}" if name else str(key)


def _key(key: Any, name: str) -> str | int:
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise TypeError(f"{name} has the key {key!r}, which is neither text nor an integer")
    return key


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _decoded(data: bytes) -> Any:
    """The tree of a file whose checksum is right."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    tree = json.loads(header.pop("__metadata__")["tree"])
    tensors, place = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (begin, stop) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if begin != place or min(shape, default=0) < 0 or stop - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} has the shape {shape} but the bytes {begin} to {stop}")
        tensors[name], place = _tensor(data[end + begin : end + stop], dtype, shape), stop
    if end + place != len(data):
        raise ValueError(f"it has {len(data)} bytes, and its header tells of {end + place}")
    return _filled(tree, tensors)


def _tensor(data: bytes, dtype: torch.dtype, shape: list[int]) -> Tensor:
    if not data:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)


def _filled(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `_outline`."""
    if isinstance(tree, list):
        return [_filled(x, tensors) for x in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "tuple":
        return tuple(_filled(x, tensors) for x in value)
    if kind == "dict":
        return {key: _filled(x, tensors) for key, x in value}
    raise ValueError(f"it has an entry of the kind {kind!r}")
