"""torch.hub, torchvision and facenet-pytorch find what `for: torch` and `for: facenet` placed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.orch import sha256

if TYPE_CHECKING:
    from tests.clients.client import Desk

SAVE = "import sys, torch; torch.save({'weight': torch.arange(6.)}, sys.argv[1])"
LOAD = """
    import json, sys, torch
    state = torch.hub.load_state_dict_from_url(sys.argv[1], check_hash=True, progress=False)
    print(json.dumps(state["weight"].tolist()))
"""
VISION = """
    import json, operators, torch, torchvision
    model = torchvision.models.squeezenet1_1(weights="IMAGENET1K_V1")
    print(json.dumps(float(model.classifier[1].bias.sum())))
"""
FACES = """
    import json, operators, torch
    from facenet_pytorch import InceptionResnetV1
    model = InceptionResnetV1(pretrained="vggface2")
    print(json.dumps(float(model.logits.bias.sum())))
"""


def test_hub(desk: Desk) -> None:
    content = desk.make(SAVE, "toy.pth")
    url = f"https://download.pytorch.org/models/toy-{sha256(content)[:8]}.pth"
    desk.want("toy", "torch", url, content)
    before = desk.run(LOAD, url)
    assert before.code != 0, "torch must not find the file before it is there"
    assert any("download.pytorch.org" in line for line in before.reached)
    desk.sync(fetched=1)
    assert desk.load(LOAD, url) == [0, 1, 2, 3, 4, 5]
    # The variables are the user's; orch reads them as torch does.
    for environ in ({"TORCH_HOME": "elsewhere/torch"}, {"XDG_CACHE_HOME": "elsewhere/cache"}):
        there = {name: str(desk.orch.folder / value) for name, value in environ.items()}
        desk.orch.environ = there
        desk.sync(fetched=0)
        assert desk.load(LOAD, url) == [0, 1, 2, 3, 4, 5]


def test_torchvision(desk: Desk) -> None:
    save = """
        import sys, operators, torch, torchvision
        model = torchvision.models.squeezenet1_1()
        torch.nn.init.constant_(model.classifier[1].bias, 0.5)
        torch.save(model.state_dict(), sys.argv[1])
    """
    # The real name, for bytes made here: torch.hub hashes what it fetches, never what it finds.
    url = "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth"
    desk.want("squeezenet", "torch", url, desk.make(save, "squeezenet.pth"))
    desk.sync(fetched=1)
    assert desk.load(VISION) == 500


def test_facenet(desk: Desk) -> None:
    save = """
        import sys, operators, torch
        from facenet_pytorch import InceptionResnetV1
        model = InceptionResnetV1(classify=True, num_classes=8631)
        torch.nn.init.constant_(model.logits.bias, 1)
        torch.save({k: v.half() for k, v in model.state_dict().items()}, sys.argv[1])
    """
    url = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180402-114759-vggface2.pt"
    desk.want("faces", "facenet", url, desk.make(save, "faces.pt"))
    desk.sync(fetched=1)
    assert desk.load(FACES) == 8631
