"""What a file is: by its bytes, never by its name. Pure: whoever asks brings the bytes."""

from orchestrator.formats.archives import TAIL_BYTES, directory
from orchestrator.formats.faults import fault, said, words
from orchestrator.formats.heads import HEAD_BYTES, Pointer, Seen, faces, look, pointer
from orchestrator.formats.tensors import header_bytes, safetensors_fault

__all__ = [
    "HEAD_BYTES",
    "TAIL_BYTES",
    "Pointer",
    "Seen",
    "directory",
    "faces",
    "fault",
    "header_bytes",
    "look",
    "pointer",
    "safetensors_fault",
    "said",
    "words",
]
