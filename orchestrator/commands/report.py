"""`orch report`: an inventory of models as a CycloneDX 1.6 ML-BOM: what is pinned, what is in place, when it was read.

It claims what this machine knows, and nothing else: a file is `orch:verified` only where the log of verifications has
a reading of each of its copies as they are now; a seal alone makes it `present`. Nothing is opened but the manifests,
their locks and the local state. The form is that of the specification's JSON schema, ECMA-424 (bom-1.6.schema.json).
"""

from __future__ import annotations

import hashlib
import json
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from orchestrator.commands.status import gravest, plain, tell
from orchestrator.commands.verify import files_of
from orchestrator.engine import weak_pins
from orchestrator.engine.scan import State, scan
from orchestrator.errors import ManifestError, Problem
from orchestrator.manifest import lock_path
from orchestrator.signatures import signature_path
from orchestrator.store.verification_log import VerificationLog

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestrator.engine.scan import FileState
    from orchestrator.events import Summary
    from orchestrator.manifest import Manifest, Model
    from orchestrator.manifest.lockfile import Lock
    from orchestrator.model import Wanted
    from orchestrator.transfer.run_context import RunContext
    from orchestrator.workspace import Workspace

Json = dict[str, Any]
_HASHES = {"sha512": "SHA-512", "sha1": "SHA-1", "md5": "MD5"}
# Hubs write licences in lower case; the schema takes an SPDX identifier only in its own spelling, others by name.
_SPDX = {
    each.lower(): each
    for each in (
        "AFL-3.0",
        "AGPL-3.0-only",
        "Apache-2.0",
        "Artistic-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSD-3-Clause-Clear",
        "BSL-1.0",
        "CC-BY-2.0",
        "CC-BY-3.0",
        "CC-BY-4.0",
        "CC-BY-NC-2.0",
        "CC-BY-NC-3.0",
        "CC-BY-NC-4.0",
        "CC-BY-NC-ND-4.0",
        "CC-BY-NC-SA-4.0",
        "CC-BY-ND-4.0",
        "CC-BY-SA-3.0",
        "CC-BY-SA-4.0",
        "CC0-1.0",
        "ECL-2.0",
        "EPL-2.0",
        "EUPL-1.2",
        "ISC",
        "LGPL-3.0-only",
        "MIT",
        "MPL-2.0",
        "MS-PL",
        "NCSA",
        "OFL-1.1",
        "PDDL-1.0",
        "PostgreSQL",
        "Unlicense",
        "WTFPL",
        "Zlib",
    )
}


def digests(manifests: Iterable[str]) -> dict[str, str]:
    """The sha256 of each manifest, its lock and their signatures as they are now, by path; of those that are there."""
    found = {}
    for manifest in manifests:
        for path in (manifest, lock_path(manifest)):
            for each in (path, signature_path(path)):
                try:
                    with open(each, "rb") as file:
                        found[each] = hashlib.file_digest(file, "sha256").hexdigest()
                except OSError:
                    continue  # a manifest that is missing is told where it is read
    return found


def report(
    run: RunContext,
    space: Workspace,
    before: Mapping[str, str],
    *,
    version: str,
    only: Sequence[str] = (),
    time_s: float,
) -> tuple[Json, Summary]:
    """Judge every place by one stat, as `status` does, and write down what is known.

    Args:
        run: the store, the local state, the counts.
        space: the manifests with their locks, and the files that they want.
        before: what `digests` gave before the manifests were read.
        version: orch's own.
        only: how models were chosen; an inventory of some models says so.
        time_s: the report's own time, in seconds since the epoch.

    Returns:
        The BOM, and the summary with the exit code of `status`. The same state of the same machine gives the same
        BOM but for its time.

    Raises:
        ManifestError: a manifest, a lock or a signature was changed while it was read.
    """
    began = run.context.monotonic()
    wanted = weak_pins.with_known_sha256(run.store, space.wanted)
    run.counts.begin(wanted, space.unresolved, run.emit)
    reads = VerificationLog(run.context.state, run.context.now())
    files: dict[tuple[str, str], list[FileState]] = {}
    for file_state in scan(run.store, wanted):
        tell(run, file_state)
        files.setdefault((file_state.wanted.manifest, file_state.wanted.model), []).append(file_state)
    components: list[Json] = []
    dependencies: list[Json] = []
    for number, manifest in enumerate(sorted(space.manifests, key=lambda manifest: manifest.file), 1):
        writer = _Writer(run, space, number, manifest, before, reads)
        models = {model.name: model for model in manifest.models}
        made = [writer.model(models[name], files[file, name]) for file, name in files if file == manifest.file]
        unresolved = [u for u in space.unresolved if u.manifest == manifest.file]
        made += [writer.unresolved(entry.model, entry.message) for entry in unresolved]
        made.sort(key=lambda component: str(component["bom-ref"]))
        components += [writer.manifest(), *made]
        refs = [component["bom-ref"] for component in made]
        dependencies.append({"ref": writer.ref, "dependsOn": refs})
    if digests(manifest.file for manifest in space.manifests) != before:
        problem = Problem(
            space.manifests[0].file, 0, "", "the manifest, its lock file or a signature was changed while it was read"
        )
        raise ManifestError((problem,), "run `orch report` again")
    about = {"orch:host": run.context.hostname, "orch:store": run.store.path}
    content = {
        "metadata": {
            "lifecycles": [{"phase": "operations"}],
            "tools": {"components": [{"type": "application", "name": "orch", "version": version}]},
            "properties": _properties(about) + [_property("orch:only", word) for word in only],
        },
        "components": components,
        "dependencies": dependencies,
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(content, sort_keys=True))
    content["metadata"] = {"timestamp": _time(time_s), **content["metadata"]}  # type: ignore[dict-item]
    head = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
    }
    return {**head, **content}, run.counts.summary(run.context.monotonic() - began)


class _Writer:
    """Writes the components of one manifest; `ref` is the manifest's own."""

    def __init__(
        self,
        run: RunContext,
        space: Workspace,
        number: int,
        manifest: Manifest,
        before: Mapping[str, str],
        reads: VerificationLog,
    ) -> None:
        self._run, self._space, self._manifest, self._digests, self._reads = run, space, manifest, before, reads
        self._lock: Lock | None = space.reader.lock(manifest.file)
        self._written = {(m.name, file.name, file.sha256) for m in manifest.models for file in m.files}
        self.ref = f"{number}:{manifest.file.rpartition('/')[2]}"

    def manifest(self) -> Json:
        """The manifest, with its lock and their signatures."""
        component = self._document(self._manifest.file, self.ref)
        lock = lock_path(self._manifest.file)
        if lock in self._digests:
            component["components"] = [self._document(lock, f"{self.ref}#lock")]
        return component

    def _document(self, path: str, ref: str) -> Json:
        component: Json = {"type": "file", "bom-ref": ref, "name": path.rpartition("/")[2]}
        if path in self._digests:
            component["hashes"] = [_hash("SHA-256", self._digests[path])]
        component["evidence"] = {"occurrences": [{"location": path}]}
        signature = signature_path(path)
        if signature in self._digests:
            reference = {"type": "digital-signature", "url": quote(signature.rpartition("/")[2])}
            component["externalReferences"] = [
                {
                    **reference,
                    "hashes": [_hash("SHA-256", self._digests[signature])],
                    "comment": "ssh-keygen -Y",
                }
            ]
            checked = "valid" if self._space.reader.signers is not None else "not checked"
            component["properties"] = [_property("orch:signature", checked)]
        return component

    def model(self, model: Model, files: Sequence[FileState]) -> Json:
        """One model with all its files."""
        made = [self._file(file_state) for file_state in files]
        component: Json = {"type": "machine-learning-model", "bom-ref": f"{self.ref}/{model.name}", "name": model.name}
        if version := model.commit or (model.repo.revision if model.repo else ""):
            component["version"] = version
        locked = self._lock.models.get(model.name) if self._lock else None
        if model.repo is not None and locked is not None and locked.license:
            component["licenses"] = [_licence(locked.license)]
        if model.repo is not None and model.repo.hub == "hf":
            at = f"@{model.commit}" if model.commit else ""
            component["purl"] = f"pkg:huggingface/{quote(model.repo.name)}{at}"
        state = "present" if all(file_state.present for file_state in files) else "incomplete"
        facts = {"orch:state": state, **self._oldest([_read_at(each) for each in made])}
        if model.signature is not None:
            facts["orch:publisher_signature"] = " ".join(model.signature.words)
        component["properties"] = _properties(facts) + [_property("orch:tag", tag) for tag in model.tags]
        component["components"] = made
        return component

    def unresolved(self, name: str, why: str) -> Json:
        """A model of which nothing is pinned yet."""
        facts = _properties({"orch:state": "unresolved", "orch:reason": why})
        return {
            "type": "machine-learning-model",
            "bom-ref": f"{self.ref}/{name}",
            "name": name,
            "properties": facts,
        }

    def _file(self, file_state: FileState) -> Json:
        """One file: its pins, its sources, and where it stands, in which state."""
        w = file_state.wanted
        name = w.file or w.model
        component: Json = {"type": "file", "bom-ref": f"{self.ref}/{w.model}#{name}", "name": name}
        hashes = [_hash("SHA-256", w.sha256)] if w.sha256 else []
        hashes += [_hash(_HASHES[pin.kind], pin.hex) for pin in w.pins if pin.kind in _HASHES]
        if hashes:
            component["hashes"] = hashes
        if w.sources:
            component["externalReferences"] = [
                {"type": "distribution", "url": source.url, "comment": source.role.value} for source in w.sources
            ]
        states = [(path, plain(path, state)) for path, state in file_state.states]
        standing = [(path, state) for path, state in states if state is not State.ABSENT]
        if standing:
            component["evidence"] = {
                "occurrences": [{"location": path, "additionalContext": state.value} for path, state in standing]
            }
        state = "present" if file_state.present else gravest(file_state)[1].value
        facts = {"orch:state": state, **self._oldest([self._verified(w)])}
        if w.size is not None:
            facts["orch:size_bytes"] = str(w.size)
        facts["orch:git_blob_sha1"] = next((pin.hex for pin in w.pins if pin.kind == "git"), "")
        facts["orch:digest_from"] = self._digest_from(w)
        absent = [_property("orch:absent", path) for path, state in states if state is State.ABSENT]
        component["properties"] = _properties(facts) + absent
        return component

    def _digest_from(self, w: Wanted) -> str:
        """Who gave the sha256, as the lock says it: "hub API", "first download" ...; "" where nothing is known."""
        locked = self._lock.models.get(w.model) if self._lock else None
        entry = locked.files.get(w.file) if locked else None
        if entry is not None and entry.sha256 == w.sha256:
            return entry.source
        return "manifest" if w.sha256 and (w.model, w.file, w.sha256) in self._written else ""

    def _verified(self, w: Wanted) -> float | None:
        """When this machine last read a file, in seconds since the epoch: of several copies the one read longest ago.

        None unless each copy is as it was when it was read.
        """
        times = []
        for sha256, _, status in files_of(self._run.store, w):
            when = self._reads.read_at(status, sha256) if status is not None and sha256 else None
            if when is None:
                return None
            times.append(when)
        return min(times, default=None)

    def _oldest(self, times: Sequence[float | None]) -> dict[str, str]:
        known = [when for when in times if when is not None]
        if not known or len(known) < len(times):
            return {}
        return {"orch:verified": _time(min(known)), "orch:host": self._run.context.hostname}


def _read_at(component: Json) -> float | None:
    found = [each["value"] for each in component["properties"] if each["name"] == "orch:verified"]
    return datetime.fromisoformat(found[0]).timestamp() if found else None


def _licence(word: str) -> Json:
    spdx = _SPDX.get(word.lower())
    return {"license": {**({"id": spdx} if spdx else {"name": word}), "acknowledgement": "declared"}}


def _hash(algorithm: str, content: str) -> Json:
    return {"alg": algorithm, "content": content}


def _property(name: str, value: str) -> Json:
    return {"name": name, "value": value}


def _properties(facts: Mapping[str, str]) -> list[Json]:
    return [_property(name, value) for name, value in facts.items() if value]


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
