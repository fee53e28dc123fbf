"""What a file is, as people say it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.formats.detect import Seen

_NAMES = {
    "safetensors": "a safetensors file",
    "gguf": "a GGUF file",
    "onnx": "an ONNX model",
    "hdf5": "an HDF5 file",
    "npy": "a numpy array",
    "tflite": "a TensorFlow Lite model",
    "pickle": "a pickle",
    "zip": "a zip archive",
    "tar": "a tar archive",
    "sentencepiece": "a sentencepiece model",
    "html": "an HTML page",
    "xml": "an XML document",
    "json": "JSON",
    "text": "plain text",
    "lfs": "a Git LFS pointer",
    "empty": "an empty file",
    "other": "of no format that orch knows",
}


def words(seen: Seen) -> str:
    """`seen` as people say it: "a pickle (torch)", "an HTML page"."""
    return f"{_NAMES[seen.format]} ({seen.detail})" if seen.detail else _NAMES[seen.format]
