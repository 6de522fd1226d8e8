#!/usr/bin/env python3
"""Writes runtime/unicode_class_table.c: where the character classes of the package `tokenizers`
(Oniguruma, and Rust's own tables) go beyond those of the installed PCRE2.

Both engines are asked about every code point; nothing is taken from a Unicode file, since
what counts is what the package does.  Usage: make_unicode_class.py > runtime/unicode_class_table.c
"""
import ctypes
import ctypes.util
import sys

import tokenizers
from tokenizers import Regex, Tokenizer, AddedToken, models, pre_tokenizers

CODES = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
CATEGORIES = ("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp "
              "Cc Cf Co").split()
SCRIPTS = "Han Hiragana Katakana Hangul Latin Greek Cyrillic Arabic Hebrew Thai Devanagari".split()

pcre2 = ctypes.CDLL(ctypes.util.find_library("pcre2-8"))
pcre2.pcre2_compile_8.restype = ctypes.c_void_p
pcre2.pcre2_match_data_create_from_pattern_8.restype = ctypes.c_void_p
pcre2.pcre2_get_ovector_pointer_8.restype = ctypes.POINTER(ctypes.c_size_t)
UTF, UCP, ANCHORED, NO_UTF_CHECK = 0x80000, 0x20000, 0x80000000, 0x40000000


def pcre2_version():
    version, unicode_version = ctypes.create_string_buffer(64), ctypes.create_string_buffer(64)
    pcre2.pcre2_config_8(11, version)
    pcre2.pcre2_config_8(10, unicode_version)
    return version.value.decode(), unicode_version.value.decode()


def of_pcre2(pattern):
    """The characters that `pattern` matches alone."""
    error, offset = ctypes.c_int(), ctypes.c_size_t()
    raw = pattern.encode()
    code = ctypes.c_void_p(pcre2.pcre2_compile_8(
        raw, ctypes.c_size_t(len(raw)), UTF | UCP | ANCHORED, ctypes.byref(error),
        ctypes.byref(offset), None))
    assert code, pattern
    data = ctypes.c_void_p(pcre2.pcre2_match_data_create_from_pattern_8(code, None))
    found = set()
    for c in CODES:
        text = chr(c).encode()
        if pcre2.pcre2_match_8(code, text, ctypes.c_size_t(len(text)), ctypes.c_size_t(0),
                               NO_UTF_CHECK, data, None) >= 0:
            found.add(c)
    return found


def of_package(split):
    """The characters that `split` (behaviour removed) takes away, asked one by one between marks."""
    found = set()
    for c in CODES:
        if not split.pre_tokenize_str(chr(c)):
            found.add(c)
    return found


def word_of_added_tokens():
    """Rust's \\w: what keeps a single_word token from matching."""
    tokenizer = Tokenizer(models.BPE({"x": 0}, []))
    tokenizer.add_tokens([AddedToken("x", single_word=True, normalized=False)])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("x", "removed")
    return {c for c in CODES if c != 0x78 and not tokenizer.encode("x" + chr(c)).ids}


def ranges(codes):
    result = []
    for c in sorted(codes):
        if result and result[-1][1] == c - 1:
            result[-1][1] = c
        else:
            result.append([c, c])
    return result


def table(name, codes, linkage="static "):
    items = ["{0x%X, 0x%X}" % (a, b) for a, b in ranges(codes)]
    lines, line = [], "   "
    for item in items:
        if len(line) + len(item) + 2 > 98:
            lines.append(line)
            line = "   "
        line += " " + item + ","
    lines.append(line)
    print("%sconst struct code_range %s[] = {\n%s\n};" % (linkage, name, "\n".join(lines)))


def main():
    print("/* unicode_class_table.c - made by tests/tokenizer/make_unicode_class.py from tokenizers %s and\n"
          " * PCRE2 %s (Unicode %s).  Do not edit. */\n// clang-format off" %
          ((tokenizers.__version__,) + pcre2_version()))
    print('#include "runtime/unicode_class.h"\n')
    listed = []
    known = [(c, r"\p{%s}" % c) for c in CATEGORIES] + [("sc:" + s, r"\p{%s}" % s) for s in SCRIPTS]
    known.append(("Alphabetic", r"\p{Alphabetic}"))
    for name, theirs in known:
        package = of_package(pre_tokenizers.Split(Regex(theirs), "removed"))
        ours = of_pcre2(r"\p{%s}" % name)
        missing, extra = package - ours, ours - package
        if extra:
            print("%s: PCRE2 has %s beyond the package" % (name, ranges(extra)), file=sys.stderr)
        if missing:
            variable = "add_" + name.replace("sc:", "script_").lower()
            table(variable, missing)
            listed.append((name, variable))
    print("const struct unicode_class unicode_classes[] = {")
    for name, variable in listed:
        print('    {"%s", %s, sizeof %s / sizeof *%s},' % (name, variable, variable, variable))
    print("};\nconst size_t n_unicode_classes = sizeof unicode_classes / sizeof *unicode_classes;\n")
    table("unicode_word", word_of_added_tokens() | {0x78}, "")
    print("const size_t n_unicode_word = sizeof unicode_word / sizeof *unicode_word;\n")
    # Between letters, each numeric character is cut off by Digits.
    digits = pre_tokenizers.Digits(individual_digits=True)
    numeric = {c for c in CODES if len(digits.pre_tokenize_str("a" + chr(c) + "a")) == 3}
    table("unicode_numeric", numeric, "")
    print("const size_t n_unicode_numeric = sizeof unicode_numeric / sizeof *unicode_numeric;")


main()
