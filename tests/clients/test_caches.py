"""One folder for all the caches of a team: `orch sync --caches DIR`, `orch run --caches DIR -- python train.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.clients.test_torch import SAVE
from tests.clients.test_whisper_clip import WHISPER
from tests.orch import made, sha256

if TYPE_CHECKING:
    from tests.clients.client import Desk

TRAIN = """
    import json, sys
    import huggingface_hub, kagglehub, modelscope, torch, whisper
    torch_url, whisper_url, kaggle, scope, hub = sys.argv[1:]
    whisper._MODELS["tiny.en"] = whisper_url
    print(json.dumps([
        torch.hub.load_state_dict_from_url(torch_url, progress=False)["weight"].tolist(),
        whisper.load_model("tiny.en", device="cpu").dims.n_mels,
        kagglehub.model_download(kaggle),
        modelscope.snapshot_download(scope, local_files_only=True),
        huggingface_hub.snapshot_download(hub),
    ]))
"""


def test_one_folder_for_all(desk: Desk) -> None:
    toy, tiny, other = desk.make(SAVE, "toy.pth"), desk.make(WHISPER, "tiny.en.pt"), made(4000)
    kaggle, scope, hub, commit = "google/yamnet/tfLite/tiny/3", "Qwen/Qwen3-0.6B", "org/net", "a" * 40
    torch_url = f"https://download.pytorch.org/models/toy-{sha256(toy)[:8]}.pth"
    whisper_url = f"https://openaipublic.azureedge.net/main/whisper/models/{sha256(tiny)}/tiny.en.pt"
    desk.want("torch", "torch", torch_url, toy)
    desk.want("whisper", "whisper", whisper_url, tiny)
    desk.want("kaggle", {"kagglehub": kaggle}, f"https://www.kaggle.com/{kaggle}/net.bin", other)
    desk.want("scope", "modelscope", f"https://modelscope.cn/models/{scope}/resolve/master/net.bin", other)
    desk.want("hub", "huggingface", f"https://huggingface.co/{hub}/resolve/{commit}/net.bin", other)
    shared = desk.orch.folder / "shared"
    words = ("--caches", str(shared))
    assert desk.orch.sync(*words).code == 0
    again = desk.orch.sync(*words)
    assert again.summary["present"] == 5
    said = desk.load(TRAIN, torch_url, whisper_url, kaggle, scope, hub, under=("run", "team.yaml", *words))
    assert said == [
        [0, 1, 2, 3, 4, 5],
        80,
        str(shared / "kagglehub" / "models" / kaggle),
        str(shared / "modelscope" / "models" / "Qwen--Qwen3-0.6B" / "snapshots" / "master"),
        str(shared / "huggingface" / "hub" / "models--org--net" / "snapshots" / commit),
    ]
