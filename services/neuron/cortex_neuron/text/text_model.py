"""What the daemon knows of a model's language: tokenizer, chat template, generation_config.json.

Owns: prompts as token ids, tokens as text. Does not own: sampling or cutting at stop strings. Made from the folder
that rank 0 fills at load (Load.text_dir). Called by: inference; everything here may be slow, so from a thread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from cortex_contracts.inventory.fleet import SamplingName, ToolParser
from cortex_contracts.wire.errors import InvalidParameter, TemplateRenderFailed
from cortex_dialects.generation import ChatPrompt, Prompt, TextPrompt
from cortex_neuron.text import reasoning
from cortex_neuron.text.template import ChatTemplate
from cortex_neuron.text.tool_calls import known

# Tokens of a prompt that are enough to hold its last marker.
_TAIL = 16


@dataclass(frozen=True, slots=True)
class Files:
    """What rank 0 wrote, read."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    generation_config: dict[str, Any]


class TextModel:
    """The language of one loaded model."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocab_size: int,
        template: ChatTemplate | None = None,
        generation_config: dict[str, Any] | None = None,
        tool_parser: ToolParser | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self._of_files = generation_config or {}
        self.generation_config: Mapping[str, Any] = self._of_files
        source = template.source if template is not None else ""
        self.thought_markers = reasoning.found(tokenizer, source)
        self.tool_format = known.found(source) if tool_parser is None else known.by_name(tool_parser)
        self.added_tokens = {str(each.content): i for i, each in tokenizer.get_added_tokens_decoder().items()}
        self.shown = self._shown_tokens()
        self._template = template
        self._byte_level = _is_byte_level(tokenizer)
        self.token = lru_cache(maxsize=65536)(self._token)

    def prefer(self, sampling: Mapping[SamplingName, float]) -> None:
        """What the catalogue says of sampling stands above generation_config.json, from now on."""
        self.generation_config = self._of_files | {str(name): value for name, value in sampling.items()}

    def encode(
        self, prompt: Prompt, *, add_special_tokens: bool | None = None, param: str = "prompt"
    ) -> tuple[int, ...]:
        """The prompt's token ids. Raises TemplateRenderFailed, or InvalidParameter, of `param`."""
        if isinstance(prompt, ChatPrompt):
            # The template writes the special tokens itself: a second BOS makes models worse.
            return self._encode(self.render(prompt), add_special_tokens=bool(add_special_tokens))
        if isinstance(prompt, TextPrompt):
            return self._encode(prompt.text, add_special_tokens=add_special_tokens is not False)
        if max(prompt.token_ids, default=0) >= self.vocab_size:
            raise InvalidParameter(
                f"{param}: token {max(prompt.token_ids)} is outside of the vocabulary of {self.vocab_size}",
                param=param,
            )
        return prompt.token_ids

    def render(self, prompt: ChatPrompt) -> str:
        """The text of a chat prompt."""
        if self._template is None:
            raise TemplateRenderFailed("the model has no chat template; use /v1/completions")
        return self._template.render(prompt.messages, prompt.tools, prompt.template_kwargs)

    def begins_in_thought(self, prompt: Sequence[int]) -> bool:
        """True where the prompt's end opens a thinking block, so that the answer begins inside of it."""
        return self.thought_markers is not None and self._tail(prompt).endswith(self.thought_markers.start)

    def has_thought(self, prompt: Sequence[int]) -> bool:
        """True where the prompt's end closes a thinking block: the template has left out the thoughts."""
        return self.thought_markers is not None and self._tail(prompt).endswith(self.thought_markers.end)

    def _tail(self, prompt: Sequence[int]) -> str:
        return str(self.tokenizer.decode(prompt[-_TAIL:], skip_special_tokens=False)).rstrip()

    def _shown_tokens(self) -> dict[int, str]:
        """Special tokens that tell thoughts and calls from text: an answer is read with them."""
        markers = list(self.tool_format.markers) if self.tool_format is not None else []
        if self.thought_markers is not None:
            markers += [self.thought_markers.start, self.thought_markers.end]
        special = {i for i, each in self.tokenizer.get_added_tokens_decoder().items() if each.special}
        tokens = {self.added_tokens[each]: each for each in markers if each in self.added_tokens}
        return {token: marker for token, marker in tokens.items() if token in special}

    def decode(self, tokens: Sequence[int], *, with_special: bool = False) -> str:
        """Text of tokens."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=not with_special))

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each, special ones included."""
        return [each.ids for each in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=True)]

    def encode_pairs(self, first: str, seconds: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """`first` with each of the others, as a cross-encoder reads them: token ids, and the segment of each."""
        pairs = [(first, second) for second in seconds]
        return [(each.ids, each.type_ids) for each in self.tokenizer.encode_batch_fast(pairs, add_special_tokens=True)]

    def _encode(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        # Of the library's ways to encode, only the batches let other threads run meanwhile.
        (encoding,) = self.tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return tuple(encoding.ids)

    def _token(self, token: int) -> tuple[str, bytes]:
        """One token's own text and bytes, for log-probabilities."""
        piece = self.tokenizer.id_to_token(token)
        if piece is None:
            return "", b""
        if self._byte_level:
            raw = b"".join(_BYTES[char] if char in _BYTES else char.encode() for char in piece)
        elif len(piece) == len("<0x00>") and piece.startswith("<0x") and piece.endswith(">"):
            raw = bytes([int(piece[3:5], 16)])
        else:
            raw = piece.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()
        return raw.decode("utf-8", errors="replace"), raw


def read(folder: Path) -> Files:
    """Read what rank 0 wrote. Raises OSError, ValueError, TemplateRenderFailed."""
    tokenizer = _read_tokenizer(folder / "tokenizer.json")
    # What a file says of padding and truncation was meant for training batches.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    template_file = folder / "chat_template.jinja"
    template = None
    if template_file.exists():
        template = ChatTemplate(template_file.read_text(encoding="utf-8"), _read_json(folder / "special_tokens.json"))
    return Files(tokenizer, template, _read_json(folder / "generation_config.json"))


def of(files: Files, vocab_size: int, tool_parser: ToolParser | None = None) -> TextModel:
    """The language that they are, of a model with so many tokens."""
    return TextModel(files.tokenizer, vocab_size, files.template, files.generation_config, tool_parser)


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as failure:  # the library raises nothing more precise
        raise ValueError(f"{path.name}: cannot be read: {failure}") from failure


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a JSON object")
    return content


def _is_byte_level(tokenizer: Tokenizer) -> bool:
    decoder = tokenizer.decoder
    return decoder is not None and "ByteLevel" in decoder.__getstate__().decode()


def _byte_chars() -> dict[str, bytes]:
    """GPT-2's table: the printable character that stands for each byte in a byte-level vocabulary."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): bytes([byte]) for byte in shown} | {
        chr(256 + place): bytes([byte]) for place, byte in enumerate(hidden)
    }


_BYTES = _byte_chars()
