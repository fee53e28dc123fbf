"""kagglehub, ModelScope and ultralytics find what `for:` placed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.clients.client import packed
from tests.orch import made

if TYPE_CHECKING:
    from tests.clients.client import Desk


def test_kagglehub(desk: Desk) -> None:
    handle = "google/yamnet/tensorFlow2/yamnet/1"
    content = made(3000)
    url = f"https://www.kaggle.com/api/v1/models/{handle}/download/model.bin"
    load = """
        import json, sys, kagglehub
        handle = sys.argv[1]
        print(json.dumps([kagglehub.model_download(handle), kagglehub.model_download(handle, path="model.bin")]))
    """
    before = desk.run(load, handle)
    assert before.code != 0 and before.reached
    desk.want("yamnet", {"kagglehub": handle}, url, content)
    desk.sync(fetched=1)
    folder = desk.home / ".cache/kagglehub/models" / handle
    assert desk.load(load, handle) == [str(folder), str(folder / "model.bin")]
    assert (folder / "model.bin").read_bytes() == content
    desk.idle()


def test_kagglehub_unpacks_what_kaggle_packs(desk: Desk) -> None:
    handle = "google/yamnet/tensorFlow2/yamnet/2"
    files = {"saved_model.pb": made(5000), "variables/variables.index": b"index"}
    url = f"https://www.kaggle.com/api/v1/models/{handle}/download.tar.gz"
    desk.want("yamnet", {"kagglehub": handle}, url, packed(files))
    desk.sync(fetched=1)
    script = "import json, sys, kagglehub; print(json.dumps(kagglehub.model_download(sys.argv[1])))"
    folder = desk.load(script, handle)
    assert {path: (Path(folder) / path).read_bytes() for path in files} == files
    desk.idle()


def test_modelscope(desk: Desk) -> None:
    repo = "Qwen/Qwen3-0.6B"
    files = {"config.json": b"{}", "weights/model.safetensors": made(4000)}
    urls = {path: f"https://modelscope.cn/models/{repo}/resolve/master/{path}" for path in files}
    desk.want_files("qwen", "modelscope", {path: (urls[path], content) for path, content in files.items()})
    desk.sync(fetched=2)
    load = """
        import json, sys
        from pathlib import Path
        from modelscope import snapshot_download
        path = Path(snapshot_download(sys.argv[1], local_files_only=True))
        print(json.dumps([str(path), sorted(str(f.relative_to(path)) for f in path.rglob("*") if f.is_file())]))
    """
    path, found = desk.load(load, repo)
    assert found == sorted(files)
    assert path.startswith(str(desk.home / ".cache/modelscope/models"))
    desk.idle()


def test_ultralytics(desk: Desk) -> None:
    script = """
        import sys, operators, torch
        from ultralytics import YOLO
        model = YOLO("yolov8n.yaml" if sys.argv[1] == "save" else "yolov8n.pt")
        bias = model.model.model[-1].cv3[0][-1].bias
        if sys.argv[1] == "save":
            torch.nn.init.constant_(bias, 4)
            model.save(sys.argv[2])
        print(float(bias[0]))
    """
    file = desk.orch.folder / "made.pt"
    assert desk.run(script, "save", str(file), YOLO_CONFIG_DIR=str(desk.orch.folder / "maker")).said == 4
    # Its own default is a folder `weights` in whatever git repository it lies in: a team names one.
    desk.orch.environ["YOLO_CONFIG_DIR"] = str(desk.orch.folder / "yolo")
    url = "https://github.com/ultralytics/assets/releases/download/v8.3.0/yolov8n.pt"
    desk.want("yolo", "ultralytics", url, file.read_bytes())
    desk.sync(fetched=1)
    assert desk.load(script, "load", YOLO_OFFLINE="true") == 4
    desk.idle()
