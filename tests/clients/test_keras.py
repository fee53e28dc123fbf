"""keras, tf_keras and tensorflow_hub find what `for:` placed: nothing is fetched, nothing is deleted."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.clients.client import md5, packed
from tests.orch import made

if TYPE_CHECKING:
    from tests.clients.client import Desk

URL = (
    "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v3/"
    "weights_mobilenet_v3_small_minimalistic_224_1.0_float.h5"
)
SAVE = """
    import sys
    from keras.applications import MobileNetV3Small
    model = MobileNetV3Small(minimalistic=True, weights=None)
    kernel, bias = model.get_layer("logits").get_weights()
    model.get_layer("logits").set_weights([kernel, bias + 7])
    model.save(sys.argv[1])
"""
# The published digest is of bytes that are not here: in keras's table stands that of ours.
LOAD = """
    import json, sys
    from keras.applications import MobileNetV3Small
    from keras.src.applications import mobilenet_v3
    mobilenet_v3.WEIGHTS_HASHES["small_minimalistic_224_1.0_float"] = (sys.argv[1], None)
    model = MobileNetV3Small(minimalistic=True)
    print(json.dumps(float(model.get_layer("logits").get_weights()[1][0])))
"""
GET_FILE = """
    import json, sys, tf_keras
    url, digest = sys.argv[1:]
    print(json.dumps(tf_keras.utils.get_file(None, url, cache_subdir="models", file_hash=digest)))
"""


def test_keras(desk: Desk) -> None:
    desk.environ["KERAS_BACKEND"] = "torch"  # the layout is the same for every backend
    content = desk.make(SAVE, "small.h5")
    desk.orch.environ["KERAS_HOME"] = str(desk.orch.folder / "elsewhere")
    desk.want("mobilenet", "keras", URL, content)
    desk.sync(fetched=1)
    place = desk.orch.folder / "elsewhere" / "models" / os.path.basename(URL)
    before = place.stat()
    assert desk.load(LOAD, md5(content)) == 7
    after = place.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (before.st_ino, before.st_mtime_ns, len(content))
    desk.idle()


def test_tf_keras_knows_no_variable(desk: Desk) -> None:
    desk.orch.environ["KERAS_HOME"] = str(desk.orch.folder / "elsewhere")
    content = made(20_000)
    desk.want("mobilenet", "tf_keras", URL, content)
    desk.sync(fetched=1)
    place = desk.home / ".keras" / "models" / os.path.basename(URL)
    assert desk.load(GET_FILE, URL, md5(content)) == str(place)
    assert place.read_bytes() == content
    desk.idle()


def test_tensorflow_hub(desk: Desk) -> None:
    save = """
        import sys, tensorflow as tf
        class Adder(tf.Module):
            def __init__(self):
                self.variable = tf.Variable(40.0)
            @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
            def __call__(self, x):
                return x + self.variable
        tf.saved_model.save(Adder(), sys.argv[1])
    """
    load = """
        import json, sys, tensorflow_hub
        print(json.dumps([tensorflow_hub.resolve(sys.argv[1]), float(tensorflow_hub.load(sys.argv[1])(2.0))]))
    """
    saved = desk.orch.folder / "adder"
    assert desk.run(save, str(saved)).code == 0
    files = {str(file.relative_to(saved)): file.read_bytes() for file in saved.rglob("*") if file.is_file()}
    handle = "https://tfhub.dev/google/universal-sentence-encoder/4"
    url = "https://storage.googleapis.com/tfhub-modules/google/universal-sentence-encoder/4.tar.gz"
    # Its own default is below /tmp and dies with the machine: a test leaves nothing there.
    desk.orch.environ["TFHUB_CACHE_DIR"] = str(desk.orch.folder / "tfhub")
    desk.want("use4", {"tfhub": handle}, url, packed(files))
    desk.sync(fetched=1)
    place = desk.orch.folder / "tfhub" / "063d866c06683311b44b4992fd46003be952409c"  # known from seven public caches
    assert desk.load(load, handle) == [str(place), 42]
    desk.idle()
