"""Random models that embed and rank, small enough to be made in a test, tokenizer and all.

What they should say is computed beside them with transformers alone: `expected`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "a",
    "to be or not to be , that is the question of the day",
    "",
    "the dog sleeps",
]
_SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 66,
    "initializer_range": 0.5,  # with the usual one all texts of a random model are nearly alike
}
# transformers' names where they are others
_NAMES = {
    "distilbert": {"hidden_size": "dim", "intermediate_size": "hidden_dim", "num_hidden_layers": "n_layers",
                   "num_attention_heads": "n_heads"},
}  # fmt: skip
_PADS_WITH_1 = ("roberta", "xlm-roberta", "camembert", "mpnet")
_HAS_TYPES = ("albert", "bert", "electra", "nomic_bert")


def write_vector_model(folder: Path, model_type: str, head: str = "", **config: Any) -> Path:
    """A folder as transformers saves it; `head` is the end of the class's name, empty for the base model."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _byte_tokenizer() if model_type in _PADS_WITH_1 else _word_tokenizer()
    shape = {_NAMES.get(model_type, {}).get(name, name): value for name, value in _SHAPE.items()}
    shape |= {"vocab_size": tokenizer.get_vocab_size(), "pad_token_id": 1 if model_type in _PADS_WITH_1 else 0}
    kinds: dict[str, Any] = {
        "": AutoModel,
        "ForCausalLM": AutoModelForCausalLM,
        "ForSequenceClassification": AutoModelForSequenceClassification,
    }
    torch.manual_seed(7)
    settings = AutoConfig.for_model(model_type, **(shape | config))
    kinds[head].from_config(settings, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def write_sentence_files(
    folder: Path, mode: str | None = None, *, normalize: bool = True, limit: int | None = None, **more: Any
) -> None:
    """modules.json and what belongs to it, as sentence-transformers writes them."""
    kinds = ["Transformer"] + (["Pooling"] if mode else []) + (["Normalize"] if normalize else [])
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate([*kinds, *more.pop("kinds", [])])
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    if mode:
        (folder / "1_Pooling").mkdir(exist_ok=True)
        flags = {
            f"pooling_mode_{name}": name == mode for name in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
        }
        pooling = {"word_embedding_dimension": 32, **flags, "include_prompt": True} | more.pop("pooling", {})
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if limit:
        reading = {"max_seq_length": limit, "do_lower_case": more.pop("lowers", False)}
        (folder / "sentence_bert_config.json").write_text(json.dumps(reading))
    if more:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(more))


def expected(folder: Path, texts: Sequence[Any], mode: str, *, normalize: bool = True, cut: int | None = None) -> Any:
    """[texts, size], each text alone through transformers' own model, and pooled here."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for ids in token_ids(folder, texts):
        with torch.inference_mode():
            hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        vector = {"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[mode][:cut]
        found.append(vector / vector.norm() if normalize else vector)
    return torch.stack(found).numpy()


def expected_scores(folder: Path, query: str, documents: Sequence[str]) -> list[float]:
    """The sigmoid of each pair's logit, each alone."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer, found = Tokenizer.from_file(str(folder / "tokenizer.json")), []
    for document in documents:
        pair = tokenizer.encode(query, document)
        types = {"token_type_ids": torch.tensor([pair.type_ids])} if model.config.model_type in _HAS_TYPES else {}
        with torch.inference_mode():
            found.append(float(torch.sigmoid(model(input_ids=torch.tensor([pair.ids]), **types).logits[0, 0])))
    return found


def token_ids(folder: Path, texts: Sequence[Any]) -> list[list[int]]:
    """Of texts, by the folder's tokenizer; what is token ids stays."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [tokenizer.encode(each).ids if isinstance(each, str) else list(each) for each in texts]


def _word_tokenizer() -> Any:
    """BERT's kind: word pieces between [CLS] and [SEP]."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = "abcdefghijklmnopqrstuvwxyz,."
    words = ["the", "fox", "dog", "quick", "brown", "lazy", "to", "be", "or", "not", "question", "is", "##s"]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{each}" for each in letters[:26]), *words]
    tokenizer = Tokenizer(
        models.WordPiece({piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def _byte_tokenizer() -> Any:
    """RoBERTa's kind: bytes between <s> and </s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    pieces = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer
