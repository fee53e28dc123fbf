"""Addresses out of a browser: each gives the file or repository that is meant, or is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ManifestError
from orchestrator.manifest.parse import parse
from orchestrator.manifest.pasted import PageError, meant

HF = "https://huggingface.co"
GPT2 = "openai-community/gpt2"


@pytest.mark.parametrize(
    ("pasted", "what"),
    [
        (f"{HF}/{GPT2}", f"hf:{GPT2}"),
        (f"{HF}/{GPT2}/", f"hf:{GPT2}"),
        (f"{HF}/{GPT2}?library=transformers#usage", f"hf:{GPT2}"),
        (f"{HF}/{GPT2}/tree/main", f"hf:{GPT2}"),
        (f"{HF}/{GPT2}/tree/v1.0", f"hf:{GPT2}@v1.0"),
        (f"{HF}/{GPT2}/discussions", f"hf:{GPT2}"),
        (f"huggingface.co/{GPT2}", f"hf:{GPT2}"),
        (f"https://hf.co/{GPT2}", f"hf:{GPT2}"),
        (f"https://www.hf-mirror.com/{GPT2}", f"hf:{GPT2}"),
        (f"hf://{GPT2}", f"hf:{GPT2}"),
        (f"hf://{GPT2}@v1", f"hf:{GPT2}@v1"),
        (f"hf://{GPT2}/onnx/a.bin", f"{HF}/{GPT2}/resolve/main/onnx/a.bin"),
        (f"{HF}/gpt2", "hf:gpt2"),
        (f"{HF}/gpt2/blob/main/config.json", f"{HF}/gpt2/resolve/main/config.json"),
        (f"{HF}/{GPT2}/blob/main/onnx/config.json", f"{HF}/{GPT2}/resolve/main/onnx/config.json"),
        (f"{HF}/{GPT2}/resolve/main/a.bin?download=true", f"{HF}/{GPT2}/resolve/main/a.bin"),
        (f"{HF}/{GPT2}/resolve/main/a.bin", f"{HF}/{GPT2}/resolve/main/a.bin"),
        (f"{HF}/datasets/o/n/blob/main/a.csv", f"{HF}/datasets/o/n/resolve/main/a.csv"),
        ("https://www.modelscope.cn/models/Qwen/Qwen3/summary", "modelscope:Qwen/Qwen3"),
        (
            "https://modelscope.cn/models/o/n/file/view/master/a/b.bin",
            "https://modelscope.cn/models/o/n/resolve/master/a/b.bin",
        ),
        ("https://github.com/o/n/blob/v1/w/a.pt?raw=true", "https://github.com/o/n/raw/v1/w/a.pt"),
        ("https://github.com/o/n/releases/download/v1/a.pt", "https://github.com/o/n/releases/download/v1/a.pt"),
        ("https://git.example.org/g/p/-/blob/main/a.pt?ref_type=heads", "https://git.example.org/g/p/-/raw/main/a.pt"),
        ("https://www.dropbox.com/scl/fi/x/a.pt?rlkey=y&dl=0", "https://www.dropbox.com/scl/fi/x/a.pt?rlkey=y&dl=1"),
        ("https://zenodo.org/records/12/preview/a.pt", "https://zenodo.org/records/12/files/a.pt"),
        ("https://zenodo.org/records/12/files/a.pt?download=1", "https://zenodo.org/records/12/files/a.pt?download=1"),
        ("hf:o/n", "hf:o/n"),
        ("https://example.org/blob/main/a.bin", "https://example.org/blob/main/a.bin"),
    ],
)
def test_what_a_page_means(pasted: str, what: str) -> None:
    found = meant(pasted)
    assert found.what == what
    assert meant(found.what) == (what, (), "")  # what is taken is taken as it is
    assert bool(found.note) is (pasted != what and not (pasted.startswith("hf://") and what.startswith("hf:")))


def test_a_folder_of_a_repository() -> None:
    assert meant(f"{HF}/{GPT2}/tree/main/onnx")[:2] == (f"hf:{GPT2}", ("onnx/*",))


@pytest.mark.parametrize(
    ("pasted", "hint"),
    [
        (HF, "hf:ORG/NAME"),
        (f"{HF}/docs/hub", "hf:ORG/NAME"),
        (f"{HF}/datasets/o/n", f"{HF}/datasets/o/n/resolve/main/FILE"),
        ("https://github.com/o/n", "https://github.com/o/n/releases/download/TAG/FILE"),
        ("https://github.com/o/n/releases/tag/v1", "releases/download/TAG/FILE"),
        ("https://drive.google.com/file/d/1aB_c-2/view?usp=sharing", "download?id=1aB_c-2&export=download&confirm=t"),
        ("https://drive.google.com/uc?id=1aB_c-2", "download?id=1aB_c-2&"),
        ("https://zenodo.org/records/12", "https://zenodo.org/records/NUMBER/files/FILE"),
        ("https://civitai.com/models/12/name", "api/download/models/VERSION"),
        ("example.org/w/a.bin", "https://example.org/w/a.bin"),
        ("127.0.0.1:8000/a.bin", "http://127.0.0.1:8000/a.bin"),
        ("localhost:8000/a.bin", "http://localhost:8000/a.bin"),
        ("localhost/a.bin", "http://localhost/a.bin"),
        ("nas:8000/a.bin", "http://nas:8000/a.bin"),
        (GPT2, f"hf:{GPT2}"),
    ],
)
def test_what_says_of_no_file_which_one_is_refused_with_the_right_form(pasted: str, hint: str) -> None:
    with pytest.raises(PageError) as error:
        meant(pasted)
    assert hint in error.value.hint


@pytest.mark.parametrize(
    ("url", "instead"),
    [
        (f"{HF}/{GPT2}", f"a web page: did you mean `repo: hf:{GPT2}`?"),
        (f"{HF}/{GPT2}/tree/v1", f"a web page: did you mean `repo: hf:{GPT2}@v1`?"),
        (f"{HF}/{GPT2}/blob/main/a.bin", f"a web page: did you mean `{HF}/{GPT2}/resolve/main/a.bin`?"),
        ("https://www.modelscope.cn/models/o/n/summary", "a web page: did you mean `repo: modelscope:o/n`?"),
        ("https://github.com/o/n/blob/v1/a.pt", "a web page: did you mean `https://github.com/o/n/raw/v1/a.pt`?"),
        ("https://git.example.org/g/p/-/blob/main/a.pt", "`https://git.example.org/g/p/-/raw/main/a.pt`?"),
        ("https://github.com/o/n", "a page of GitHub, not a file: give a file's URL"),
        (f"{HF}/{GPT2}/resolve/main/a.bin", ""),
        (f"{HF}/{GPT2}/resolve/main/a.bin?download=true", ""),
        (f"{HF}/{GPT2}/resolve/main/tree/a.bin", ""),
        (f"{HF}/{GPT2}/raw/main/config.json", ""),
        (f"{HF}/api/models/{GPT2}", ""),
        ("https://modelscope.cn/api/v1/models/o/n/repo?FilePath=a.bin", ""),
        ("https://github.com/o/n/blob/v1/a.pt?raw=true", ""),
        ("https://drive.google.com/uc?id=1aB_c-2", ""),
    ],
)
def test_a_page_in_a_manifest_is_refused_with_what_is_meant(url: str, instead: str) -> None:
    text = f"version: 1\nmodels:\n  m:\n    url: {url}\n    to: models/a.bin\n"
    try:
        parse(text, "/team.yaml", resolve=False)
    except ManifestError as error:
        ((_, line, path, message),) = ((p.file, p.line, p.path, p.message) for p in error.problems)
        assert (line, path) == (4, "models > m > url")
        assert instead
        assert instead in message
    else:
        assert not instead


@given(
    st.text(alphabet="/:.?#=&abhf-_@", max_size=40),
    st.sampled_from(
        (
            "",
            "https://huggingface.co/",
            "https://github.com/",
            "https://drive.google.com/",
            "https://modelscope.cn/",
            "hf://",
        )
    ),
)
def test_any_text_is_read_or_refused(text: str, site: str) -> None:
    try:
        found = meant(site + text)
    except PageError as error:
        assert error.hint
    else:
        assert found.what == found.what.strip()
