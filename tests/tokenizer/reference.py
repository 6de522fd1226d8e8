"""The ids and texts that the packages give, for configs/demo and the fixtures.

Kimi's tokenizer is the package `tiktoken` on chunks of the text, written after tokenization_kimi.py
(huggingface.co/moonshotai/Kimi-K2-Instruct).
"""
import base64
import itertools
import json
import pathlib
import random

from known_patterns import KIMI

HERE = pathlib.Path(__file__).parent
FOLDERS = {"demo": HERE.parent.parent / "configs" / "demo"}
FOLDERS.update({f.name: f for f in sorted((HERE / "fixtures").iterdir())})

PART, RUN, RESERVED = 400000, 25000, 256


def chunks(text):
    """Parts of 400,000 characters, cut again after every 25,000 of a run of white space or of none."""
    for start in range(0, len(text), PART):
        part, cuts, at = text[start:start + PART], [0], 0
        for _, run in itertools.groupby(part, str.isspace):
            n = len(list(run))
            cuts += range(at + RUN, at + n, RUN)
            at += n
        for begin, end in zip(cuts, cuts[1:] + [len(part)]):
            yield part[begin:end]


class Json:
    """tokenizer.json by the package `tokenizers`."""

    def __init__(self, folder):
        from tokenizers import Tokenizer
        self.package = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.size = self.package.get_vocab_size()
        # The package takes the ö of this added token for a byte when it decodes; we give the token's text.
        self.not_decoded_alike = self.package.token_to_id("Wörter")

    def ids(self, texts):
        return [e.ids for e in self.package.encode_batch_fast(texts, add_special_tokens=False)]

    def text(self, ids):
        return self.package.decode(ids, skip_special_tokens=False)


class Kimi:
    """tiktoken.model by the package `tiktoken`."""

    def __init__(self, folder):
        import tiktoken
        # tiktoken.load keeps a copy of each file by its path, which hides that the file has changed.
        lines = [line.split() for line in (folder / "tiktoken.model").read_bytes().splitlines()]
        ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
        names = json.loads((folder / "tokenizer_config.json").read_text())["added_tokens_decoder"]
        ids = range(len(ranks), len(ranks) + RESERVED)
        special = {names[str(i)]["content"] if str(i) in names else "<|reserved_token_%d|>" % i: i for i in ids}
        self.package = tiktoken.Encoding("kimi", pat_str=KIMI, mergeable_ranks=ranks, special_tokens=special)
        self.size = len(ranks) + RESERVED
        self.not_decoded_alike = None

    def ids(self, texts):
        return [[i for chunk in chunks(text) for i in self.package.encode(chunk, allowed_special="all")]
                for text in texts]

    def text(self, ids):
        return self.package.decode(ids, errors="replace")


def make_pairs(folder):
    """A tiktoken.model with every pair of bytes, so that almost any cut that is wrong shows in the ids."""
    pairs = [bytes([a, b]) for a in range(256) for b in range(256)]
    random.Random(5).shuffle(pairs)
    tokens = [bytes([a]) for a in range(256)] + pairs
    (folder / "tiktoken.model").write_bytes(
        b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens)))
    (folder / "tokenizer_config.json").write_text('{"added_tokens_decoder": {}}')


def reference(folder):
    return (Json if (folder / "tokenizer.json").exists() else Kimi)(folder)
