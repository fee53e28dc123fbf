"""Make weight files, the same for the same seed: no framework, no network."""

from __future__ import annotations

import hashlib
import json
import pickle
import random
import struct
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

_BLOCK_BYTES = 1 << 20
# Without the exponent's highest bit every F16 and F32 is finite (and below 2), whatever the other bits.
_FINITE = bytes(byte & 0xBF for byte in range(256))
_EPOCH = (1980, 1, 1, 0, 0, 0)  # a zip's first day


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    dtype: str
    rows: int
    columns: int

    @property
    def numbers(self) -> int:
        return self.rows * self.columns

    @property
    def size(self) -> int:
        return self.numbers * {"F16": 2, "F32": 4}[self.dtype]


def make_safetensors(path: str | os.PathLike[str], megabytes: int, seed: int) -> tuple[str, int]:
    """Write a safetensors file with so many MiB of tensors; its sha256 and size."""
    tensors, start = _tensors(megabytes), 0
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for tensor in tensors:
        stop = start + tensor.size
        shape = [tensor.rows, tensor.columns]
        header[tensor.name] = {"dtype": tensor.dtype, "shape": shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    chance = random.Random(seed)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            file.writelines(_blocks(chance, tensor.size))
    return _digest(path)


def make_torch_zip(path: str | os.PathLike[str], megabytes: int, seed: int) -> tuple[str, int]:
    """Write what `torch.save` of a dict of tensors would, with so many MiB of them; its sha256 and size."""
    tensors = _tensors(megabytes)
    chance = random.Random(seed)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(_entry("data.pkl"), _pickled(tensors))
        archive.writestr(_entry("byteorder"), "little")
        for number, tensor in enumerate(tensors):
            with archive.open(_entry(f"data/{number}"), "w", force_zip64=tensor.size > 1 << 31) as file:
                for block in _blocks(chance, tensor.size):
                    file.write(block)
        archive.writestr(_entry("version"), "3\n")
    return _digest(path)


def _tensors(megabytes: int) -> tuple[_Tensor, ...]:
    """Half of it one F16 embedding, half of it F32 layers of 512 KiB."""
    layers = (_Tensor(f"layers.{number}.weight", "F32", 128, 1024) for number in range(megabytes))
    return _Tensor("embedding.weight", "F16", 256 * megabytes, 1024), *layers


def _blocks(chance: random.Random, size: int) -> Iterator[bytes]:
    for start in range(0, size, _BLOCK_BYTES):
        yield chance.randbytes(min(_BLOCK_BYTES, size - start)).translate(_FINITE)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(f"archive/{name}", _EPOCH)
    entry.create_system = 0  # else the digest depends on the system
    return entry


def _pickled(tensors: tuple[_Tensor, ...]) -> bytes:
    """A dict of tensors in pickle's opcodes; each storage is a persistent id that names its entry."""
    items = (_text(tensor.name) + _rebuilt(number, tensor) for number, tensor in enumerate(tensors))
    return b"".join((pickle.PROTO + b"\x02", pickle.EMPTY_DICT, pickle.MARK, *items, pickle.SETITEMS, pickle.STOP))


def _rebuilt(number: int, tensor: _Tensor) -> bytes:
    kind = {"F16": "HalfStorage", "F32": "FloatStorage"}[tensor.dtype]
    storage = (
        _text("storage"),
        _global("torch", kind),
        _text(str(number)),
        _text("cpu"),
        _number(tensor.numbers),
    )
    arguments = (
        _tuple(*storage) + pickle.BINPERSID,
        _number(0),  # where in the storage it starts
        _tuple(_number(tensor.rows), _number(tensor.columns)),
        _tuple(_number(tensor.columns), _number(1)),  # strides
        pickle.NEWFALSE,  # requires_grad
        _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE,  # backward hooks
    )
    return _global("torch._utils", "_rebuild_tensor_v2") + _tuple(*arguments) + pickle.REDUCE


def _text(text: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(text.encode())) + text.encode()


def _number(number: int) -> bytes:
    return pickle.BININT + struct.pack("<i", number)


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def _digest(path: str | os.PathLike[str]) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size
