"""`--metrics FILE`: the state after a run in the text format of Prometheus, for node_exporter's textfile collector.

The collector reads `*.prom` in one folder and refuses time stamps; two files must not have the same sample, and so each
has the label `manifest`. All metrics are gauges: a process that lives for one run counts nothing that only grows.
"""

from __future__ import annotations

import math
import os
import stat
import sys
import threading
from typing import TYPE_CHECKING

from orchestrator import events
from orchestrator.errors import OrchError
from orchestrator.files import reason, write_in
from orchestrator.folders import open_folder, read_regular
from orchestrator.render.sink import INTERRUPTED
from orchestrator.render.traffic import Traffic
from orchestrator.text import shown, shown_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.events import Event, Summary

HELP = {
    "orch_build_info": "The version of orch that wrote this file.",
    "orch_model_present": "1 if all files of the model are verified and in place, else 0.",
    "orch_model_size_bytes": "The size of the model's files that are in place.",
    "orch_model_verified_timestamp_seconds": "When all bytes of the model were last read and found right.",
    "orch_run_last_timestamp_seconds": "When the last run ended.",
    "orch_run_last_success_timestamp_seconds": "When the last run ended that had exit code 0; 0 if none did.",
    "orch_run_exit_code": "The exit code of the last run.",
    "orch_run_duration_seconds": "How long the last run took.",
    "orch_run_files": "The files of the last run by their result.",
    "orch_run_received_bytes": "The bytes that the last run received from a host by a program.",
    "orch_run_faults": "The failed attempts of the last run on a host.",
    "orch_store_size_bytes": "The disk space that a part of the store takes.",
    "orch_store_free_bytes": "The free disk space for the store.",
}
AREAS = ("blobs", "partial", "quarantine")
_LOOKED_AT = ("orch_model_", "orch_store_")  # kept from the last file where a run ended before it looked
_LIMIT_BYTES = 64 << 20  # 100,000 models take 40 MB
_MODE = 0o644  # node_exporter is another user

Samples = dict[str, float]  # by name and labels, as they are written


class Metrics:
    """A sink that shows nothing, and writes the file at the end, also of a run that failed.

    Args:
        path: the file, absolute.
        manifest: the label of all samples: the paths of the run's manifests.
        clock: a monotonic clock in seconds.
        now: the time in seconds since the epoch.
    """

    def __init__(self, path: str, manifest: str, clock: Callable[[], float], now: Callable[[], float]) -> None:
        self._path, self._manifest, self._now = path, manifest, now
        self._traffic = Traffic(clock)
        self._lock = threading.Lock()
        self._sizes: dict[str, dict[str, int]] = {}  # of the files that are in place, by model
        self._verified: dict[str, set[str]] = {}
        self._failed: set[str] = set()
        self._unknown: set[str] = set()  # a stop came before anybody had looked

    def __call__(self, event: Event) -> None:
        """Book one event."""
        match event:
            case events.Finished():
                with self._lock:
                    self._sizes.setdefault(event.model, {})[event.file] = event.size_bytes
                    if event.how == "fetched":
                        self._verified.setdefault(event.model, set()).add(event.file)
            case events.Verified():
                with self._lock:
                    self._sizes.setdefault(event.model, {}).setdefault(event.file, event.size_bytes)
                    self._verified.setdefault(event.model, set()).add(event.file)
            case events.GaveUp():
                with self._lock:
                    self._sizes.setdefault(event.model, {}).pop(event.file, None)
                    (self._unknown if event.fault == INTERRUPTED else self._failed).add(event.model)
            case _:
                self._traffic.add(event)

    def tell(self, error: OrchError) -> None:
        """Do nothing: the exit code says it."""

    def close(self, summary: Summary) -> None:
        """Write the file; where it cannot be written, warn on stderr."""
        try:
            before = read(self._path)
            with self._lock:
                samples = self._samples(summary, before)
            _write(self._path, text(samples))
        except (OSError, OrchError) as error:
            print(f"warning: --metrics {shown_lines(self._path)}: {_reason(error)}", file=sys.stderr)

    def _samples(self, summary: Summary, before: Samples) -> Samples:
        now, success = self._now(), self._name("orch_run_last_success_timestamp_seconds")
        ended_early = not summary.ok and not summary.files
        samples = {key: value for key, value in before.items() if ended_early and key.startswith(_LOOKED_AT)}
        samples[self._name("orch_build_info", version=summary.version)] = 1
        for model, sizes in self._sizes.items():
            verified = self._name("orch_model_verified_timestamp_seconds", model=model)
            present = self._name("orch_model_present", model=model)
            size = self._name("orch_model_size_bytes", model=model)
            samples[present], samples[size] = float(model not in self._failed), sum(sizes.values())
            if model in self._unknown - self._failed:
                samples[present], samples[size] = before.get(present, 0), before.get(size, samples[size])
            elif sizes and sizes.keys() <= self._verified.get(model, set()) and model not in self._failed:
                samples[verified] = now
            if verified not in samples and verified in before:
                samples[verified] = before[verified]
        samples[self._name("orch_run_last_timestamp_seconds")] = now
        samples[success] = now if summary.ok else before.get(success, 0)
        samples[self._name("orch_run_exit_code")] = summary.exit_code
        samples[self._name("orch_run_duration_seconds")] = round(summary.seconds, 3)
        results = {"present": summary.present, "adopted": summary.placed, "fetched": summary.fetched}
        for result, count in {**results, "failed": len(summary.failed)}.items():
            samples[self._name("orch_run_files", result=result)] = count
        for sums in self._traffic.hosts:
            by = {"host": sums.host, "backend": sums.backend}
            samples[self._name("orch_run_received_bytes", **by)] = sums.received_bytes
            for fault, count in sums.faults.items():
                samples[self._name("orch_run_faults", **by, fault=fault.upper())] = count
        if summary.store and os.path.isdir(summary.store):
            for area in AREAS:
                samples[self._name("orch_store_size_bytes", area=area)] = _disk_bytes(f"{summary.store}/{area}")
            status = os.statvfs(summary.store)
            samples[self._name("orch_store_free_bytes")] = status.f_bavail * status.f_frsize
        return samples

    def _name(self, metric: str, **labels: str) -> str:
        return name(metric, {"manifest": self._manifest, **labels})


def refusal(path: str) -> str:
    """Why a file cannot be written later, "" where it probably can; `path` is absolute."""
    try:
        with open_folder(os.path.dirname(path)) as folder:
            if not os.access(folder.at(), os.W_OK | os.X_OK):
                return "its folder cannot be written"
            if not stat.S_ISREG(os.lstat(folder.at(os.path.basename(path))).st_mode):
                return "something that is not a file is there"
    except FileNotFoundError:
        return "" if os.path.isdir(os.path.dirname(path)) else "its folder is missing"
    except (OSError, OrchError) as error:
        return _reason(error)
    return ""


def name(metric: str, labels: Mapping[str, str]) -> str:
    """The name of a sample with its labels: control characters are shown, then `\\`, `"` and newlines are escaped."""
    pairs = []
    for label, value in labels.items():
        escaped = shown(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        pairs.append(f'{label}="{escaped}"')
    return f"{metric}{{{','.join(pairs)}}}"


def text(samples: Samples) -> str:
    """The file: the samples of each metric together, below its help and type."""
    lines = []
    for metric, words in HELP.items():
        mine = [f"{key} {_number(value)}" for key, value in samples.items() if key.startswith(f"{metric}{{")]
        if mine:
            lines += [f"# HELP {metric} {words}", f"# TYPE {metric} gauge", *mine]
    return "\n".join(lines) + "\n"


def read(path: str) -> Samples:
    """The samples of an earlier file; none where there is no file, and not those that are damaged."""
    try:
        lines = read_regular(path, _LIMIT_BYTES).decode("utf-8").splitlines()
    except (OSError, ValueError):
        return {}
    samples = {}
    for line in lines:
        key, _, number = line.rpartition(" ")
        if key.endswith("}") and key.partition("{")[0] in HELP:
            try:
                value = float(number)
            except ValueError:
                continue
            if math.isfinite(value):
                samples[key] = value
    return samples


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(round(value, 3))


def _write(path: str, content: str) -> None:
    """Replace the file, whatever stands there: a link is not followed, for others may write into that folder."""
    with open_folder(os.path.dirname(path)) as folder:
        write_in(folder, os.path.basename(path), content.encode(), mode=_MODE)


def _reason(error: OSError | OrchError) -> str:
    return reason(error) if isinstance(error, OSError) else error.message


def _disk_bytes(folder: str) -> int:
    """What `du` says of a folder; what cannot be read counts nothing."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        total += _disk_bytes(entry.path)
                except OSError:
                    continue
    except OSError:
        return total
    return total
