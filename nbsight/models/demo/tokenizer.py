"""The shipped model's tokenizer: byte-level pairs, for any text, and a token for each word it knows.

Pairs are first learned from the corpus as usual. Then merges are added at the end of the list, where they
cannot change what the earlier ones do, until each word of the corpus is one token.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from nbsight.models.demo.corpus import documents

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["END", "build_tokenizer", "save_tokenizer"]

END = "<|endoftext|>"
LEARNED = 700
"""Size of the vocabulary after the learned merges: 256 bytes, the end of text, and the commonest pairs."""

# "Eiffel Tower" is two tokens. With "Colosseum" in two as well, the two prompts line up position by position,
# which patching one into the other needs.
PIECES = {" Colosseum": 2}


def build_tokenizer(seed: int = 0, sample: int = 30_000) -> Tokenizer:
    """Make the tokenizer from a sample of the corpus; the same for the same seed."""
    from tokenizers import (
        AddedToken,
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
        trainers,
    )

    counts = _pretokens(seed, sample)
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=LEARNED,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Each word counts alike: the model meets "Ghana" as a word though "the" is a thousand times commoner.
    learner.train_from_iterator(list(counts), trainer)
    learned = json.loads(learner.to_str())["model"]
    vocab, merges = _complete(learned["vocab"], [tuple(pair) for pair in learned["merges"]], counts)

    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, length: int) -> None:
    """Write the files that `AutoTokenizer.from_pretrained` reads.

    Written by hand: transformers 5 names a class that transformers 4 has not, and both know this one.
    """
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": END, "eos_token": END, "unk_token": END, "pad_token": END}
    config = special | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": length,
        # Without this line token_type_ids come too, and GPT-2 would add their embeddings to the words'.
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")


def _pretokens(seed: int, sample: int) -> Counter[str]:
    """Count the pieces into which GPT-2's pattern cuts the sample: words with their blank, numbers, marks."""
    pattern = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+")
    counts: Counter[str] = Counter()
    for text in documents(seed, sample):
        counts.update(pattern.findall(text))
    return counts


def _complete(
    vocab: dict[str, int], merges: list[tuple[str, str]], counts: Counter[str]
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Add merges until every counted word is one token, or as many as `PIECES` says."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocab, merges = dict(vocab), list(merges)
    for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        # Built anew for each word: what is added for one word changes how the next one falls apart.
        cutter = Tokenizer(models.BPE(vocab=vocab, merges=merges))
        cutter.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        pieces = cutter.encode(word).tokens
        while len(pieces) > PIECES.get(word, 1):
            merges.append((pieces[0], pieces[1]))
            pieces[:2] = [pieces[0] + pieces[1]]
            vocab.setdefault(pieces[0], len(vocab))
    return vocab, merges
