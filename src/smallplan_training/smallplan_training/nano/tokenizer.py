"""The default model's tokenizer: few tokens for a prompt, and the same pieces for a name wherever it stands.

A SentencePiece BPE model whose pieces are put together here rather than learnt blindly:

- a line of the prompt that never changes is one user-defined symbol; so are verbs, outcomes and line heads;
- a name has the same pieces after a line break, a bracket and a space: the space in front of it is a piece of its
  own, or the end of a symbol, a comma or a short word (`the `). Well-known names of several words are one piece;
- text is taken as it is (no normalisation, no prefix space); what has no piece becomes bytes.

SentencePiece, llama.cpp and transformers give the same tokens for it; `save_tokenizer` writes what the latter two
need. Training it takes seconds.
"""

from __future__ import annotations

import io
import json
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as sp_model

from smallplan_planner.actions import ActionKind, OutcomeCode
from smallplan_planner.priors import Priors, load_priors
from smallplan_planner.prompt import (
    CONTAINERS,
    DISTANCES,
    DOORS,
    MODES,
    SPACES,
    SURFACES,
    Message,
    PromptView,
    render,
)
from smallplan_planner.response import HEADS
from smallplan_planner.room_prompt import render_room
from smallplan_training.samples import Sample
from smallplan_training.teachers.expert import CHANCES

UNKNOWN, BOS, EOS, PAD = "<unk>", "<s>", "<|end|>", "<pad>"
ROLES = ("system", "user", "assistant")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>' }}"
    "{% if not loop.last or add_generation_prompt %}{{ '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
SPACE = "\u2581"  # how SentencePiece writes a space

_WORD = re.compile(r"[^\W\d_]+")
_REASONS = (": a usual place", ": a usual room is not found yet", *(f": it is {word}" for word in DISTANCES))
PHRASES = (
    *(" yet. Options: ", " is in ", " is found, so I stop.", "Not worth the way, so I stop."),
    *(f"{reason}, so I {act}." for reason in _REASONS for act in ("open it", "look there")),
    *(f", {word}, " for word in DISTANCES),
    *(f"{chance}{end}" for _, _, chance in CHANCES for end in ("; ", ".")),
)
"""Of the expert's answers; one token each."""

_MAX_COUNT = 200  # a word that is more frequent than this is no more important
_FREQUENT = 10  # a word of so many answers has a form with a space behind it


class NanoTokenizer:
    """Text and chats to token ids and back."""

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._sp = sentencepiece.SentencePieceProcessor(model_proto=model)
        self._role_ids = {role: self._sp.piece_to_id(f"<|{role}|>") for role in ROLES}
        self.bos_id: int = self._sp.bos_id()
        self.eos_id: int = self._sp.eos_id()
        self.pad_id: int = self._sp.pad_id()

    @classmethod
    def load(cls, folder: Path) -> NanoTokenizer:
        """Read `tokenizer.model` of a model folder; raises FileNotFoundError."""
        return cls((folder / "tokenizer.model").read_bytes())

    def __len__(self) -> int:
        return int(self._sp.vocab_size())

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text: special tokens in it are text."""
        return list(self._sp.encode(text))

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a chat up to and including the line where the assistant's answer begins."""
        ids = [self.bos_id]
        for message in messages:
            ids += [self._role_ids[message.role], *self.encode("\n" + message.content), self.eos_id]
            ids += self.encode("\n")
        return [*ids, self._role_ids["assistant"], *self.encode("\n")]

    def locate_marks(self, sample: Sample) -> list[int]:
        """For each token of a sample's prompt, up to its last message's end, 1 + the label of the mark that ends with
        it, 0 for all others; nothing for a sample without marks."""
        if not sample.marks:
            return []
        text = "\n" + sample.messages[-1].content
        ends = [piece.end for piece in self._sp.encode(text, return_type="proto").pieces]  # in bytes
        first = len(self.encode_prompt(sample.messages[:-1])) - 1  # it ends with the two tokens of the answer's line
        labels = [0] * (first + len(ends))
        for mark in sample.marks:
            labels[first + bisect_left(ends, len(text[: mark.end + 1].encode()))] = 1 + mark.label
        return labels

    def encode_answer(self, answer: str) -> list[int]:
        """Token ids of an answer, the end token included."""
        return [*self.encode(answer), self.eos_id]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; control tokens are left out."""
        return str(self._sp.decode(list(ids)))


def render_chat(messages: Sequence[Message]) -> str:
    """A chat as the template writes it, up to where the assistant's answer begins."""
    turns = [f"<|{message.role}|>\n{message.content}{EOS}\n" for message in messages]
    return f"{BOS}{''.join(turns)}<|assistant|>\n"


def prompt_symbols(priors: Priors) -> list[str]:
    """Texts that are one token each: the constant parts of prompts and answers."""
    symbols: list[str] = []
    kinds = tuple(ActionKind)
    for mode in MODES:
        system = render(PromptView(target="x", mode=mode, kinds=kinds, rooms=()))[0].content
        symbols += [f"\n{line}" for line in system.split("\n")]
    symbols += ["\nTask: find the ", "\nUsual places: ", "\nUsual places: not known.", "\nLog:", "\nYou are in "]
    symbols += [". Found: none.", ". Found: "]
    for head in (SPACES, DOORS, CONTAINERS, SURFACES):
        symbols += [f"\n{head}:", f"\n{head}: none"]
    for word in DISTANCES:
        symbols += [f"\n{word}, ", f"\nothers {word}: "]
    symbols.append("\nUse listed names only. Explore only rooms with unexplored space. Target listed: done().")
    symbols += [", near ", "\nNothing seen in "]
    symbols += [" (closed)", " (opened)", " (closed), ", " (opened), "]
    symbols += [": leading out", ": within"]
    for kind in kinds:
        end = ")" if kind is ActionKind.DONE else ""
        symbols += [f"\n{kind.verb}({end}", f" {kind.verb}({end}"]
    symbols += [f"): {word}" for word in ("arrived", "opened", "closed", "explored")]
    symbols += [f"): failed, {code.name.lower().replace('_', ' ')}" for code in OutcomeCode if code]
    question = render_room(["x"], priors.rooms)[0].content
    symbols += [f"\n{line}" for line in [*question.split("\n"), "Seen: ", "Room type:"]]
    symbols += PHRASES
    symbols += [f"{HEADS[0]}: ", f"\n{HEADS[1]}: ", f"\n{HEADS[2]}:", "\n"]
    return list(dict.fromkeys(symbols))


def train_tokenizer(texts: Iterable[str], answers: Iterable[str], names: Iterable[str], vocab_size: int) -> bytes:
    """Make a SentencePiece model of `vocab_size` pieces.

    The words of `texts` (prompts, made-up names) give the pieces; frequent short words of `answers` also come
    with their space; each of `names` (known labels, several words or one) becomes one piece.
    """
    symbols = prompt_symbols(load_priors())
    constant = re.compile("|".join(re.escape(symbol) for symbol in sorted(symbols, key=len, reverse=True)))
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_WORD.findall(constant.sub(" ", text)))
    in_answers: Counter[str] = Counter()
    for answer in answers:
        in_answers.update(_WORD.findall(constant.sub(" ", answer)))
    known = list(dict.fromkeys(names))
    name_words = {word for name in known for word in name.split()}
    counts.update(in_answers)
    for word in name_words:
        counts[word] = _MAX_COUNT
    short = [word for word, count in in_answers.most_common() if count >= _FREQUENT and word not in name_words]

    phrases = [_escape(name) for name in known if " " in name]
    spaced = [word + SPACE for word in short]
    tail = list(dict.fromkeys([*spaced, *(SPACE + word for word in spaced), *_joined(phrases)]))
    head = ["," + SPACE, "." + SPACE, ":" + SPACE, ";" + SPACE, SPACE + "("] + [f"-{digit}" for digit in range(1, 10)]
    characters = [chr(code) for code in range(33, 127)] + [SPACE]
    special = [UNKNOWN, BOS, EOS, PAD, *(f"<|{role}|>" for role in ROLES)]
    n_bytes = 256
    room = vocab_size - len(special) - n_bytes - len(symbols) - len(head) - len(tail) - len(characters)
    if room < 1:
        raise ValueError(f"a vocabulary of {vocab_size} is too small; expected more than {vocab_size - room}")
    learnt = _learn_pieces(counts, room + 400)
    words = [piece for piece in learnt if len(piece) > 1 and piece not in tail][:room]
    rare = [piece for piece in learnt if len(piece) == 1 and piece not in characters]
    rare = rare[: max(0, room - len(words))]

    proto = sp_model.ModelProto()
    _set_specs(proto)
    kinds = sp_model.ModelProto.SentencePiece
    for index, piece in enumerate(special):
        proto.pieces.add(piece=piece, score=0.0, type=kinds.CONTROL if index else kinds.UNKNOWN)
    for byte in range(n_bytes):
        proto.pieces.add(piece=f"<0x{byte:02X}>", score=0.0, type=kinds.BYTE)
    for symbol in symbols:
        proto.pieces.add(piece=_escape(symbol), score=0.0, type=kinds.USER_DEFINED)
    for rank, piece in enumerate([*head, *words, *tail, *characters, *rare]):
        proto.pieces.add(piece=piece, score=float(-rank), type=kinds.NORMAL)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    return bytes(proto.SerializeToString())


def save_tokenizer(tokenizer: NanoTokenizer, folder: Path) -> None:
    """Write `tokenizer.model`, and what transformers and llama.cpp's converter read besides."""
    folder.mkdir(parents=True, exist_ok=True)
    proto = sp_model.ModelProto.FromString(tokenizer.model)
    kinds = sp_model.ModelProto.SentencePiece
    added, vocabulary = {}, {}
    for index, piece in enumerate(proto.pieces):
        special = piece.type in (kinds.CONTROL, kinds.UNKNOWN)
        text = piece.piece if special else piece.piece.replace(SPACE, " ")
        if special or piece.type == kinds.USER_DEFINED:
            flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": special}
            added[index] = {"content": text, **flags}
        vocabulary[text if piece.type == kinds.USER_DEFINED else piece.piece] = index
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "unk_token": UNKNOWN,
        "add_prefix_space": False,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {str(index): token for index, token in added.items()},
        "chat_template": CHAT_TEMPLATE,
    }
    fast = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, **token} for index, token in added.items()],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": UNKNOWN,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": _merges(proto),
        },
    }
    (folder / "tokenizer.model").write_bytes(tokenizer.model)
    for name, data in (("tokenizer_config.json", config), ("tokenizer.json", fast)):
        (folder / name).write_text(json.dumps(data, ensure_ascii=False, indent=1), encoding="utf-8")


def _merges(proto: sp_model.ModelProto) -> list[list[str]]:
    """The pairs of pieces that merge, best first, as transformers' BPE wants them."""
    normal = sp_model.ModelProto.SentencePiece.NORMAL
    rank = {piece.piece: index for index, piece in enumerate(proto.pieces) if piece.type == normal}
    return [
        [piece[:cut], piece[cut:]]
        for piece in rank
        for cut in range(1, len(piece))
        if piece[:cut] in rank and piece[cut:] in rank
    ]


def _learn_pieces(counts: Counter[str], size: int) -> list[str]:
    """The pieces of a BPE over single words, earliest merge first, characters last."""
    buffer = io.BytesIO()
    lines = (word for word, count in sorted(counts.items()) for _ in range(min(count, _MAX_COUNT)))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=buffer,
        model_type="bpe",
        vocab_size=size,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_by_unicode_script=False,
        character_coverage=1.0,
        hard_vocab_limit=False,
        shuffle_input_sentence=False,
        num_threads=1,
        minloglevel=2,
    )
    proto = sp_model.ModelProto.FromString(buffer.getvalue())
    normal = sp_model.ModelProto.SentencePiece.NORMAL
    return [p.piece for p in proto.pieces if p.type == normal and SPACE not in p.piece]


def _joined(phrases: Sequence[str]) -> list[str]:
    """The pieces through which phrases are merged: `_b`, `_c`, `a_b`, `a_b_c` for `a_b_c`, shorter ones first."""
    endings: dict[str, None] = {}
    starts: dict[str, None] = {}
    for phrase in phrases:
        words = phrase.split(SPACE)
        for length in range(1, len(words)):
            endings[SPACE + words[length]] = None
            starts[SPACE.join(words[: length + 1])] = None
    return [*endings, *sorted(starts, key=lambda piece: piece.count(SPACE))]


def _set_specs(proto: sp_model.ModelProto) -> None:
    spec = proto.trainer_spec
    spec.model_type = sp_model.TrainerSpec.BPE
    spec.byte_fallback = True
    spec.unk_id, spec.bos_id, spec.eos_id, spec.pad_id = 0, 1, 2, 3
    spec.unk_piece, spec.bos_piece, spec.eos_piece, spec.pad_piece = UNKNOWN, BOS, EOS, PAD
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = False
    proto.normalizer_spec.remove_extra_whitespaces = False
    proto.normalizer_spec.escape_whitespaces = True


def _escape(text: str) -> str:
    return text.replace(" ", SPACE)
