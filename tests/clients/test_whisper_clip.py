"""whisper, CLIP and open_clip hash what they find at each load: they take what `for:` placed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.orch import sha256

if TYPE_CHECKING:
    from tests.clients.client import Desk

AZURE = "https://openaipublic.azureedge.net"


WHISPER = """
    import sys, torch, whisper
    dims = whisper.ModelDimensions(80, 4, 24, 6, 4, 51864, 4, 24, 6, 4)  # as many heads as tiny.en's table names
    model = whisper.model.Whisper(dims)
    torch.nn.init.constant_(model.decoder.ln.bias, 5)
    torch.save({"dims": dims.__dict__, "model_state_dict": model.state_dict()}, sys.argv[1])
"""
CLIP = """
    import sys, operators, torch
    from clip.model import CLIP
    model = CLIP(8, 32, 1, 64, 16, 77, 100, 64, 1, 1)
    torch.nn.init.constant_(model.ln_final.bias, 2)
    torch.save(model.state_dict(), sys.argv[1])
"""


def test_whisper(desk: Desk) -> None:
    load = """
        import json, sys, whisper
        whisper._MODELS["tiny.en"] = sys.argv[1]
        print(json.dumps(float(whisper.load_model("tiny.en", device="cpu").decoder.ln.bias[0])))
    """
    content = desk.make(WHISPER, "tiny.en.pt")
    url = f"{AZURE}/main/whisper/models/{sha256(content)}/tiny.en.pt"
    desk.want("whisper", "whisper", url, content)
    for variables in ({}, {"XDG_CACHE_HOME": str(desk.orch.folder / "cache")}):
        desk.orch.environ = variables
        desk.sync()
        assert desk.load(load, url) == 5
        desk.idle()


def test_clip(desk: Desk) -> None:
    load = """
        import json, sys, operators, clip
        clip.clip._MODELS["ViT-B/32"] = sys.argv[1]
        model, _ = clip.load("ViT-B/32", device="cpu")
        print(json.dumps([model.visual.input_resolution, float(model.ln_final.bias[0])]))
    """
    content = desk.make(CLIP, "clip.pt")
    url = f"{AZURE}/clip/models/{sha256(content)}/ViT-B-32.pt"
    desk.orch.environ["XDG_CACHE_HOME"] = str(desk.orch.folder / "cache")  # CLIP does not look at it
    desk.want("clip", "clip", url, content)
    desk.sync(fetched=1)
    assert desk.load(load, url) == [32, 2]
    desk.idle()


def test_open_clip(desk: Desk) -> None:
    # The table decides: a tag with a hub name is looked for in the hub's cache, the others by their URL.
    script = """
        import json, sys, operators, torch, open_clip
        config = {"embed_dim": 8,
                  "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
                  "text_cfg": {"context_length": 77, "vocab_size": 100, "width": 64, "heads": 1, "layers": 1}}
        open("tiny.json", "w").write(json.dumps(config))
        open_clip.add_model_config("tiny.json")
        if sys.argv[1] == "save":
            torch.nn.init.constant_((model := open_clip.create_model("tiny")).ln_final.bias, 2)
            torch.save(model.state_dict(), sys.argv[2])
        else:
            table = open_clip.pretrained._PRETRAINED["tiny"] = {}
            for key, value in zip(sys.argv[1::2], sys.argv[2::2]):
                table[key] = open_clip.pretrained._pcfg(**{key: value})
            models = [open_clip.create_model("tiny", pretrained=tag) for tag in table]
            print(json.dumps([float(model.ln_final.bias[0]) for model in models]))
    """
    file = desk.orch.folder / "tiny.pt"
    assert desk.run(script, "save", str(file)).code == 0
    content = file.read_bytes()
    url = f"https://github.com/mlfoundations/open_clip/releases/download/v0.2-weights/tiny-{sha256(content)[:8]}.pt"
    desk.want("by-url", "open_clip", url, content)
    commit = "c" * 40
    desk.want("by-name", "huggingface", f"https://huggingface.co/org/tiny/resolve/{commit}/tiny.pt", content)
    desk.sync(fetched=1, placed=1)  # the same bytes come once
    assert desk.load(script, "url", url, "hf_hub", "org/tiny/tiny.pt", HF_HUB_OFFLINE="1") == [2, 2]
    desk.idle()
