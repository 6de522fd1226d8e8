"""Damaged model directories: the parts that test_cli_corrupt.py puts together.

A directory is a golden checkpoint with links to its files.  A damage is a function of the path of
such a directory; what it changes, it writes anew."""

import json
import os
import shutil
import struct

from cli import SOURCE

GOLDEN = os.path.join(SOURCE, "tests", "golden")
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD = "model-0000{}-of-00003.safetensors"
# As the tokenizers of these tests are: every byte has an id, so that any text can be a prompt.
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}


def read_file(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, data):
    """In place of the link: the golden file must stay as it is."""
    if os.path.lexists(path):
        os.remove(path)
    with open(path, "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape"))


def copy(folder, case):
    os.makedirs(folder)
    for name in os.listdir(os.path.join(GOLDEN, case)):
        if not name.startswith("golden"):
            os.symlink(os.path.join(GOLDEN, case, name), os.path.join(folder, name))
    return folder


def parse(data):
    """(header, tensor bytes) of a safetensors file"""
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + size]), data[8 + size:]


def pack(header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def enlarge(model, tensor):
    """The first number of a bf16 tensor 8 times as large; the header stays, which ranks compare."""
    path = os.path.join(model, WEIGHTS)
    data = bytearray(read_file(path))
    header, body = parse(data)
    assert header[tensor]["dtype"] == "BF16"
    at = len(data) - len(body) + header[tensor]["data_offsets"][0]
    struct.pack_into("<H", data, at, struct.unpack_from("<H", data, at)[0] + (3 << 7))
    write(path, bytes(data))


def tokenizer(**changes):
    """A right tokenizer.json of 3 ids and one added token."""
    return {"version": "1.0", "added_tokens": [{"id": 3, "content": "<s>", "special": True}],
            "pre_tokenizer": BYTE_LEVEL, "decoder": BYTE_LEVEL,
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
            **changes}


def with_tokenizer(folder, **changes):
    write(os.path.join(folder, "tokenizer.json"), json.dumps(tokenizer(**changes)))
    write(os.path.join(folder, "tokenizer_config.json"), json.dumps({"bos_token": "<s>"}))


# --- damages of one file, whatever it is ---

def text(name, data):
    return lambda folder: write(os.path.join(folder, name), data)


def cut(name, keep):
    """keep: a part of the file from 0 to 1, or bytes to leave out, negative"""
    def damage(folder):
        data = read_file(os.path.join(folder, name))
        write(os.path.join(folder, name), data[:keep if keep < 0 else int(len(data) * keep)])
    return damage


def behind(name, data):
    return lambda folder: write(os.path.join(folder, name),
                                read_file(os.path.join(folder, name)) + data)


def before(name, data):
    return lambda folder: write(os.path.join(folder, name),
                                data + read_file(os.path.join(folder, name)))


def remove(name):
    return lambda folder: os.remove(os.path.join(folder, name))


def replaced(name, make):
    """In its place: os.mkdir, os.mkfifo, ..."""
    def damage(folder):
        path = os.path.join(folder, name)
        if os.path.lexists(path):
            os.remove(path)
        make(path)
    return damage


def dangling(path):
    os.symlink("../../blobs/gone", path)


def loop(path):
    os.symlink(os.path.basename(path), path)


def device(path):
    os.symlink("/dev/zero", path)


def unreadable(path):
    write(path, b"{}")
    os.chmod(path, 0)


def sparse(path):
    """A terabyte that takes no room."""
    with open(path, "wb") as file:
        file.truncate(1 << 40)


# --- config.json ---

def config(edit):
    """Edits the parsed file in place."""
    def damage(folder):
        path = os.path.join(folder, "config.json")
        parsed = json.loads(read_file(path))
        edit(parsed)
        write(path, json.dumps(parsed))
    return damage


def key(name, value):
    return config(lambda parsed: parsed.update({name: value}))


def keys(**values):
    return config(lambda parsed: parsed.update(values))


def without(name):
    return config(lambda parsed: parsed.pop(name))


def scaling(**values):
    return config(lambda parsed: parsed["rope_scaling"].update(values))


# --- safetensors ---

def weights(edit, name=WEIGHTS):
    """edit: gets and returns (header, body), or returns the bytes of the file"""
    def damage(folder):
        path = os.path.join(folder, name)
        data = edit(*parse(read_file(path)))
        write(path, data if isinstance(data, bytes) else pack(*data))
    return damage


def header_length(length):
    return weights(lambda header, body: struct.pack("<Q", length) + pack(header, body)[8:])


def header_text(edit):
    """edit: from the JSON text of the header to another"""
    return weights(lambda header, body: pack(edit(json.dumps(header).encode()), body))


def drop(name, file=WEIGHTS):
    """Leaves a tensor out; its bytes go with it."""
    def edit(header, body):
        begin, end = header.pop(name)["data_offsets"]
        for entry in header.values():
            if "data_offsets" in entry and entry["data_offsets"][0] >= end:
                entry["data_offsets"] = [at - (end - begin) for at in entry["data_offsets"]]
        return header, body[:begin] + body[end:]
    return weights(edit, file)


def add(name, dtype, shape, size, file=WEIGHTS):
    def edit(header, body):
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [len(body), len(body) + size]}
        return header, body + bytes(size)
    return weights(edit, file)


def retag(name, **fields):
    def edit(header, body):
        header[name].update(fields)
        return header, body
    return weights(edit)


def moved(name, begin, end):
    """Moves the ends of a tensor's bytes."""
    def edit(header, body):
        at = header[name]["data_offsets"]
        header[name]["data_offsets"] = [at[0] + begin, at[1] + end]
        return header, body
    return weights(edit)


def rename(old, new):
    def edit(header, body):
        header[new] = header.pop(old)
        return header, body
    return weights(edit)


def twice(name):
    """The same name twice in the text of one header."""
    def edit(header, body):
        doubled = json.dumps(header)[:-1] + ", " + json.dumps({name: header[name]})[1:]
        return doubled.encode(), body
    return weights(edit)


def poison(name, bits, width=2, at=0, file=WEIGHTS):
    """One number of a tensor becomes `bits`; at: 0 the first, -1 the last."""
    def damage(folder):
        path = os.path.join(folder, file)
        data = read_file(path)
        begin, end = parse(data)[0][name]["data_offsets"]
        place = 8 + struct.unpack("<Q", data[:8])[0] + (begin if at == 0 else end - width)
        write(path, data[:place] + bits.to_bytes(width, "little") + data[place + width:])
    return damage


def index(edit):
    def damage(folder):
        path = os.path.join(folder, INDEX)
        parsed = json.loads(read_file(path))
        edit(parsed)
        write(path, json.dumps(parsed))
    return damage


def mapped(name, file):
    return index(lambda parsed: parsed["weight_map"].update({name: file}))


def duplicate_in(shard, name, dtype, shape, size):
    return add(name, dtype, shape, size, SHARD.format(shard))


# --- tokenizer ---

def tokens(**changes):
    return lambda folder: with_tokenizer(folder, **changes)


def bpe(**changes):
    return tokens(model={**tokenizer()["model"], **changes})


def tokenizer_file(name, damage):
    """A right tokenizer, then a damage of one of its files."""
    def both(folder):
        with_tokenizer(folder)
        damage(name)(folder)
    return both


def drop_folder(folder):
    shutil.rmtree(folder)
