"""The layout of sentence-transformers: the hub's cache, in SENTENCE_TRANSFORMERS_HOME where that is set.

sentence-transformers 6.2.0, base/model.py:204-205 (the variable is handed to the hub's client as `cache_dir`) and
:235-241 (a name without `/` means `sentence-transformers/NAME`, except for the names in util/misc.py:307-373).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.frameworks import base, flat, huggingface

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.frameworks.base import LayoutResult
    from orchestrator.manifest.values import Model

NAME = "sentence-transformers"
SAFE = huggingface.SAFE
OFFLINE = huggingface.OFFLINE
ORGANIZATION = "sentence-transformers"
_WITHOUT_ORGANIZATION = """
albert-base-v1 albert-base-v2 albert-large-v1 albert-large-v2 albert-xlarge-v1 albert-xlarge-v2 albert-xxlarge-v1
albert-xxlarge-v2 bert-base-cased-finetuned-mrpc bert-base-cased bert-base-chinese bert-base-german-cased
bert-base-german-dbmdz-cased bert-base-german-dbmdz-uncased bert-base-multilingual-cased
bert-base-multilingual-uncased bert-base-uncased bert-large-cased-whole-word-masking-finetuned-squad
bert-large-cased-whole-word-masking bert-large-cased bert-large-uncased-whole-word-masking-finetuned-squad
bert-large-uncased-whole-word-masking bert-large-uncased camembert-base ctrl distilbert-base-cased-distilled-squad
distilbert-base-cased distilbert-base-german-cased distilbert-base-multilingual-cased
distilbert-base-uncased-distilled-squad distilbert-base-uncased-finetuned-sst-2-english distilbert-base-uncased
distilgpt2 distilroberta-base gpt2-large gpt2-medium gpt2-xl gpt2 openai-gpt roberta-base-openai-detector
roberta-base roberta-large-mnli roberta-large-openai-detector roberta-large t5-11b t5-3b t5-base t5-large t5-small
transfo-xl-wt103 xlm-clm-ende-1024 xlm-clm-enfr-1024 xlm-mlm-100-1280 xlm-mlm-17-1280 xlm-mlm-en-2048
xlm-mlm-ende-1024 xlm-mlm-enfr-1024 xlm-mlm-enro-1024 xlm-mlm-tlm-xnli15-1024 xlm-mlm-xnli15-1024 xlm-roberta-base
xlm-roberta-large-finetuned-conll02-dutch xlm-roberta-large-finetuned-conll02-spanish
xlm-roberta-large-finetuned-conll03-english xlm-roberta-large-finetuned-conll03-german xlm-roberta-large
xlnet-base-cased xlnet-large-cased
"""


def layout(context: Context, model: Model, value: str) -> LayoutResult:
    """Put a repository's files into SENTENCE_TRANSFORMERS_HOME where it is set, else into the hub's cache."""
    flat.refuse_value(NAME, value)
    return huggingface.repository_layout(model, _own(context) or huggingface.cache(context), _full_name)


def variables(context: Context) -> dict[str, str]:
    """SENTENCE_TRANSFORMERS_HOME where it is set, else the hub's variables."""
    own = _own(context)
    return {"SENTENCE_TRANSFORMERS_HOME": own} if own else huggingface.variables(context)


def _own(context: Context) -> str:
    named = context.environ.get("SENTENCE_TRANSFORMERS_HOME")
    return base.folder(context, named) if named else ""


def _full_name(repo: str) -> str:
    return repo if "/" in repo or repo.lower() in _WITHOUT_ORGANIZATION.split() else f"{ORGANIZATION}/{repo}"
