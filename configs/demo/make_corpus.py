#!/usr/bin/env python3
"""make_corpus.py - English prose from freely licensed Debian packages, cleaned, deduplicated and split.

usage: make_corpus.py --debs DIR --out DIR
  --debs  folder with the .deb files (make_corpus.py --list prints the names for `apt-get download`)
  --out   gets train.jsonl (one {"source", "name", "text"} a line), heldout/*.txt, sources.json

The one idea: a document is a list of paragraphs.  Every extractor yields paragraphs, then four rules apply to
all sources alike: a paragraph must look like prose, a long paragraph is kept once in the whole corpus, whole
documents chosen by the hash of their name are held out, and a training paragraph that shares 13 words in a
row with a held-out document is removed.
"""
import argparse, gzip, hashlib, html, json, os, re, subprocess, sys, tempfile
from html.parser import HTMLParser
from pathlib import Path

DOC = "usr/share/doc/"
WESNOTH = "httt dm did dw ei l low nr sof sota sotbe thot trow tsg ttb utbs".split()
# package -> (extractor, folder inside the package, glob, licence)
SOURCES = {
    "bible-kjv-text": ("bible", "usr/lib", "", "King James text; package GPL-2+"),
    "dict-devil": ("dictd", "usr/share/dictd", "devil.dict.dz", "public domain (A. Bierce, 1911)"),
    "dict-jargon": ("dictd", "usr/share/dictd", "jargon.dict.dz", "public domain"),
    "crawl-common": ("sections", "usr/share/crawl/dat/descript", "*.txt", "GPL-2+"),
    "endless-sky-data": ("endless", "usr/share/games/endless-sky/data", "*.txt", "GPL-3+"),
    "open-adventure": ("asciidoc", DOC + "open-adventure", "*.adoc*", "BSD-2-clause"),
    "python3.11-doc": ("html", DOC + "python3.11/html", "**/*.html", "PSF-2"),
    "python-django-doc": ("html", DOC + "python-django-doc/html", "**/*.html", "BSD-3-clause"),
    "sqlite3-doc": ("html", DOC + "sqlite3", "*.html", "public domain"),
    "postgresql-doc-15": ("html", DOC + "postgresql-doc-15/html", "*.html", "PostgreSQL"),
    "git-doc": ("html", DOC + "git-doc", "**/*.html", "GPL-2"),
    "perl-doc": ("pod", "usr/share/perl", "**/*.pod", "Artistic or GPL-1+"),
    "debian-handbook": ("html", DOC + "debian-handbook/html/en-US", "*.html", "CC-BY-SA-3.0 or GPL-2+"),
    "debian-reference-en": ("html", "usr/share/debian-reference", "*.en.html", "GPL-2+"),
    "developers-reference": ("html", "usr/share/developers-reference", "*.html", "GPL-2"),
    "debian-policy": ("html", DOC + "debian-policy/policy.html", "*.html", "GPL-2+"),
    "debian-faq": ("html", DOC + "debian/FAQ", "*.en.html", "verbatim and modified copies under the same notice (SPI)"),
    "debian-history": ("html", DOC + "debian-history/docs", "*.en.html", "GPL-2+"),
    "harden-doc": ("html", DOC + "harden-doc/html/en-US", "*.html", "GPL-2+"),
    "aptitude-doc-en": ("html", DOC + "aptitude/html/en", "*.html", "GPL-2+"),
    "freedombox-doc-en": ("html", "usr/share/freedombox/manual/en", "*.html", "CC-BY-SA-4.0"),
}
for w in WESNOTH:
    SOURCES["wesnoth-1.16-" + w] = ("wesnoth", "usr/share/games/wesnoth/1.16/data/campaigns", "**/*.cfg", "GPL-2+")
PROGRAMS = ["bible-kjv"]          # prints the text of bible-kjv-text
HELDOUT_SHARE = 0.016             # of each source's bytes, in whole documents
HELDOUT_MIN, HELDOUT_MAX = 3000, 60000


class Prose(HTMLParser):
    """Paragraphs of an HTML page: block elements, without code, tables and navigation."""
    BLOCK = set("p li dd dt h1 h2 h3 h4 h5 h6 div blockquote section article body td".split())
    VOID = set("br img hr meta link input area base col embed source track wbr".split())
    SKIP_TAG = set("script style pre table nav head form button svg textarea select footer".split())
    SKIP_CLASS = re.compile(r"\b(navheader|navfooter|navbar|sphinxsidebar\w*|related|toc|contents|highlight\S*|literallayout|nav|"
                            r"footer|footnotes?|menu|searchmenu|nosearch|fancy_toc|breadcrumb|screen|programlisting|docnav|"
                            r"bibliography|indextable|genindextable|sidebar)\b")

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.out, self.buf, self.stack, self.skip = [], [], [], 0

    def flush(self):
        s = re.sub(r"\s+", " ", "".join(self.buf)).strip()
        self.buf = []
        if s:
            self.out.append(s.replace("\u00b6", "").strip())

    def handle_starttag(self, tag, attrs):
        if tag in self.VOID:
            if tag == "br":
                self.buf.append(" ")
            return
        a = dict(attrs)
        skip = tag in self.SKIP_TAG or bool(self.SKIP_CLASS.search(a.get("class") or "")) or a.get("role") == "navigation" \
            or "headerlink" in (a.get("class") or "")
        if tag in self.BLOCK:
            self.flush()
        if tag in ("p", "li", "dd", "dt"):                      # these close themselves
            while self.stack and self.stack[-1][0] == tag and tag != "li":
                self.pop()
        self.stack.append((tag, skip))
        self.skip += skip

    def pop(self):
        _, skip = self.stack.pop()
        self.skip -= skip

    def handle_endtag(self, tag):
        if tag in self.BLOCK:
            self.flush()
        if any(t == tag for t, _ in self.stack):
            while self.stack[-1][0] != tag:
                self.pop()
            self.pop()

    def handle_data(self, data):
        if not self.skip:
            self.buf.append(data)


def read(path):
    data = path.read_bytes()
    if path.suffix in (".gz", ".dz"):
        data = gzip.decompress(data)
    return data.decode("utf-8", "replace")


def ex_html(root, glob):
    for path in sorted(root.glob(glob)):
        rel = str(path.relative_to(root))
        if re.search(r"_modules/|genindex|py-modindex|search\.html|_sources|releaselog|whatsnew/changelog|copyright|license\.html|"
                     r"bookindex|(^|/)index\.|c3ref/|legalnotice|releases/[0-9.]+\.[1-9][0-9]?\.html|_static", rel) or path.is_symlink():
            continue
        p = Prose()
        p.feed(read(path))
        p.flush()
        yield rel, p.out


def ex_pod(root, glob):
    for path in sorted(root.glob(glob)):
        paras, begin = [], False
        for block in re.split(r"\n\s*\n", read(path)):
            if block.startswith("=begin"):
                begin = True
            if block.startswith("=end"):
                begin = False
                continue
            if begin or not block.strip() or block[0] in " \t" or re.match(r"=(over|back|cut|pod|encoding|for|begin)", block):
                continue
            block = re.sub(r"^=(head\d|item)\s*", "", block).replace("\n", " ")
            for _ in range(4):
                block = re.sub(r"[ZX]<[^<>]*>", "", block)
                block = re.sub(r"L<(?:([^|<>]+)\|)?([^<>]*)>", lambda m: m.group(1) or m.group(2), block)
                block = re.sub(r"[BCFIS]<<+ (.*?) >>+", r"\1", block)
                block = re.sub(r"[BCFIS]<([^<>]*)>", r"\1", block)
            block = re.sub(r"E<(lt|gt|amp|quot|sol|verbar)>", lambda m: {"sol": "/", "verbar": "|"}.get(m[1]) or html.unescape(f"&{m[1]};"), block)
            paras.append(re.sub(r"\s+", " ", block).strip("* "))
        yield path.name, paras


def ex_dictd(root, glob):
    """Dictionary entries: a head word at the margin, then indented paragraphs; 26 documents, one a letter."""
    for path in sorted(root.glob(glob)):
        docs = {}
        key = "0"
        for block in re.split(r"\n\s*\n", read(path)):
            if block.startswith("00-"):
                continue
            m = re.match(r"\s*([A-Za-z])", block)
            if m and (block[0] not in " \t" or path.name.startswith("jargon") and not block.startswith("    ")):
                key = m[1].lower()
            docs.setdefault(key, []).append(re.sub(r"\s+", " ", block.replace("{", "").replace("}", "")).strip())
        for k, paras in sorted(docs.items()):
            for i in range(0, len(paras), 60):
                yield f"{path.stem}-{k}{i // 60}", paras[i:i + 60]


def ex_sections(root, glob):
    for path in sorted(root.glob(glob)):
        if path.name == "quotes.txt":                     # quotations of other works
            continue
        paras = []
        for entry in read(path).split("%%%%"):
            entry = re.sub(r"(?m)^#.*\n", "", entry)
            entry = re.sub(r"(?s)\{\{.*?\}\}|<[^<>]*>", "", entry)
            head, _, body = entry.strip().partition("\n")
            if "_" in head or not body.strip():
                continue
            body = re.sub(r"[ \t]*\n(?!\n)[ \t]*", " ", body.replace("\n\n", "\0")).replace("\0", "\n\n")
            paras.append(head.strip().capitalize())
            paras += [re.sub(r"\s+", " ", x).strip() for x in body.split("\n\n")]
        yield path.name, paras


def ex_endless(root, glob):
    for path in sorted(root.glob(glob)):
        docs, name = {}, path.stem
        for line in read(path).split("\n"):
            m = re.match(r'(mission|event|phrase|planet|outfit|ship|system)\s+[`"](.*?)[`"]', line)
            if m:
                name = f"{path.stem}-{m[2]}" if m[1] == "mission" else path.stem
            if re.match(r"phrase", line):
                name = None
            m = re.match(r"\s*(?:description|spaceport|dialog|log)?\s*`\t?(.*)`", line) or \
                re.match(r'\s*(?:description|spaceport|dialog)\s+"(.*)"', line)
            if m and name:
                docs.setdefault(name, []).append(re.sub(r"<(\w+)>", r"\1", m[1]).strip())
        for k, v in docs.items():
            yield k, v


def ex_wesnoth(root, glob):
    for path in sorted(root.glob(glob)):
        paras = []
        for m in re.finditer(r'_\s*"((?:[^"]|"")*)"', read(path)):
            s = re.sub(r"<[^<>]*>", "", m[1].replace('""', '"')).split("^")[-1]
            if len(s) > 25:
                paras += [re.sub(r"\s+", " ", x).strip() for x in s.split("\n\n")]
        rel = path.relative_to(root)
        yield "-".join(rel.parts[-2:]) if len(rel.parts) > 1 else rel.name, paras


def ex_asciidoc(root, glob):
    for path in sorted(root.glob(glob)):
        paras = [re.sub(r"\s+", " ", b).strip("= ") for b in re.split(r"\n\s*\n", read(path)) if b.strip() and b[0] not in " \t:/-"]
        yield path.name, paras


BOOKS = """Genesis Exodus Leviticus Numbers Deuteronomy Joshua Judges Ruth 1Samuel 2Samuel 1Kings 2Kings 1Chronicles 2Chronicles Ezra
Nehemiah Esther Job Psalms Proverbs Ecclesiastes Song Isaiah Jeremiah Lamentations Ezekiel Daniel Hosea Joel Amos Obadiah Jonah Micah
Nahum Habakkuk Zephaniah Haggai Zechariah Malachi Matthew Mark Luke John Acts Romans 1Corinthians 2Corinthians Galatians Ephesians
Philippians Colossians 1Thessalonians 2Thessalonians 1Timothy 2Timothy Titus Philemon Hebrews James 1Peter 2Peter 1John 2John 3John
Jude Revelation""".split()


def ex_bible(root, glob, tool=None):
    """One document a book, one paragraph for about three verses, a heading a chapter."""
    text = subprocess.run([str(tool), "-p", str(root) + "/", "-f", "gen1:1-rev22:21"], capture_output=True, text=True, check=True).stdout
    order, books = [], {}
    for line in text.split("\n"):
        m = re.match(r"(\w+?)(\d+):(\d+) (.*)", line)
        if not m:
            continue
        if m[1] not in books:
            books[m[1]] = []
            order.append(m[1])
        books[m[1]].append((int(m[2]), m[4].strip()))
    assert len(order) == len(BOOKS), order
    for key, name in zip(order, BOOKS):
        name = re.sub(r"^(\d)", r"\1 ", name)
        paras, chapter = [], 0
        for c, verse in books[key]:
            if c != chapter:
                chapter, n = c, 0
                paras.append(f"{name}, chapter {c}")
            if n % 3 == 0:
                paras.append(verse)
            else:
                paras[-1] += " " + verse
            n += 1
        yield name, paras


def is_prose(s):
    """Headings pass when short and made of letters; paragraphs when most of them are lower-case words."""
    if len(s) < 3 or "\ufffd" in s:
        return False
    letters = sum(c.isalpha() or c == " " for c in s) / len(s)
    ascii_ = sum(ord(c) < 128 for c in s) / len(s)
    if len(s) < 60:
        return letters > 0.85 and ascii_ > 0.95
    return letters > 0.86 and ascii_ > 0.97 and sum(len(w) > 24 for w in s.split()) < 0.05 * len(s.split()) + 1


def clean(s):
    for a, b in (("\u2018", "'"), ("\u2019", "'"), ("\u201c", '"'), ("\u201d", '"'), ("\u00a0", " "), ("\u2026", "..."), ("\u200b", "")):
        s = s.replace(a, b)
    return s.strip()


def grams(text, n=13):
    w = re.findall(r"[a-z0-9']+", text.lower())
    return {hash(tuple(w[i:i + n])) for i in range(len(w) - n + 1)}


def write_sources(stat, path):
    rows = ["# Sources of the corpus", "",
            "Text of Debian 12 packages, extracted by `make_corpus.py`. Bytes are those left after cleaning, deduplication and",
            "the removal of paragraphs that share 13 words in a row with a held-out document. Each held-out file is under the",
            "licence of its row; the full notices stand in `/usr/share/doc/PACKAGE/copyright` of the package.", "",
            "| package | version | licence of the text | training bytes | documents | held-out bytes | held-out files (`heldout/`) |",
            "|---|---|---|---|---|---|---|"]
    for k, v in stat.items():
        rows.append(f"| {k} | {v['version']} | {v['licence']} | {v['train_bytes']} | {v['train_documents']} | {v['heldout_bytes']} | "
                    f"{', '.join(x[:-4] for x in v['heldout'])} |")
    total = lambda key: sum(v[key] for v in stat.values())
    rows.append(f"| total | | | {total('train_bytes')} | {total('train_documents')} | {total('heldout_bytes')} | "
                f"{sum(len(v['heldout']) for v in stat.values())} files |")
    rows += ["", "`bible-kjv` (GPL-2+) prints the text of `bible-kjv-text`. The King James text is in the public domain outside the United Kingdom.", ""]
    path.write_text("\n".join(rows))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--debs", type=Path)
    ap.add_argument("--out", type=Path)
    ap.add_argument("--list", action="store_true", help="print the package names and stop")
    a = ap.parse_args()
    if a.list:
        print(" ".join(PROGRAMS + list(SOURCES)))
        return
    os.environ["PYTHONHASHSEED"] = "0"
    tmp = Path(tempfile.mkdtemp(prefix="corpus."))
    version = {}
    for deb in sorted(a.debs.glob("*.deb")):
        name = deb.name.split("_")[0]
        if name in SOURCES or name in PROGRAMS:
            subprocess.run(["dpkg", "-x", deb, tmp / name], check=True)
            version[name] = subprocess.run(["dpkg-deb", "-f", deb, "Version"], capture_output=True, text=True, check=True).stdout.strip()
    seen, docs = set(), []
    for src, (kind, sub, glob, _) in SOURCES.items():
        fn = globals()["ex_" + kind]
        root = tmp / src / sub
        gen = fn(root, glob, tool=tmp / "bible-kjv/usr/bin/bible") if kind == "bible" else fn(root, glob)
        for name, paras in gen:
            kept = []
            for p in map(clean, paras):
                if not is_prose(p):
                    continue
                key = hashlib.sha1(re.sub(r"\W+", " ", p.lower()).encode()).digest()[:10]
                if key in seen and len(p) > 40:
                    continue
                seen.add(key)
                kept.append(p)
            while kept and len(kept[-1]) < 60:                # a heading with nothing under it
                kept.pop()
            text = "\n\n".join(kept) + "\n"
            if len(text) >= 400:
                docs.append({"source": src, "name": name, "text": text})
    # Held out: whole documents in the order of a hash, until the source's share is reached.
    group = lambda s: "wesnoth" if s.startswith("wesnoth") else s
    total, held_bytes = {}, {}
    for d in docs:
        total[group(d["source"])] = total.get(group(d["source"]), 0) + len(d["text"].encode())
    held = []
    for d in sorted(docs, key=lambda d: hashlib.sha1((d["source"] + "/" + d["name"]).encode()).hexdigest()):
        g, n = group(d["source"]), len(d["text"].encode())
        if HELDOUT_MIN <= n <= HELDOUT_MAX and held_bytes.get(g, 0) + n <= max(HELDOUT_SHARE * total[g], 6000):
            held.append(d)
            held_bytes[g] = held_bytes.get(g, 0) + n
    held_id = {id(d) for d in held}
    banned = set()
    for d in held:
        banned |= grams(d["text"])
    train, removed = [], 0
    for d in docs:
        if id(d) in held_id:
            continue
        kept = []
        for p in d["text"].rstrip("\n").split("\n\n"):
            if grams(p) & banned:
                removed += len(p)
                continue
            kept.append(p)
        d["text"] = "\n\n".join(kept) + "\n"
        if grams(d["text"]) & banned:                          # a match across a paragraph's edge
            removed += len(d["text"])
            continue
        if len(d["text"]) >= 400:
            train.append(d)
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "heldout").mkdir(exist_ok=True)
    for f in (a.out / "heldout").glob("*.txt"):
        f.unlink()
    with open(a.out / "train.jsonl", "w") as f:
        for d in train:
            f.write(json.dumps(d) + "\n")
    by_file = {}
    for d in held:
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", f"{group(d['source'])}-{Path(d['name']).stem}").strip("-").lower()
        while slug in by_file:
            slug += "-b"
        by_file[slug] = d
        (a.out / "heldout" / f"{slug}.txt").write_text(d["text"])
    stat = {}
    for src in SOURCES:
        stat[src] = {"version": version.get(src), "licence": SOURCES[src][3],
                     "train_bytes": sum(len(d["text"].encode()) for d in train if d["source"] == src),
                     "train_documents": sum(d["source"] == src for d in train),
                     "heldout": sorted(s + ".txt" for s, d in by_file.items() if d["source"] == src),
                     "heldout_bytes": sum(len(d["text"].encode()) for d in held if d["source"] == src)}
    json.dump(stat, open(a.out / "sources.json", "w"), indent=1)
    for s, v in stat.items():
        print(f"{s:24} {v['train_documents']:5} docs {v['train_bytes'] / 1e6:7.2f} MB   held out {v['heldout_bytes']:7} B {len(v['heldout'])}")
    write_sources(stat, a.out / "SOURCES.md")
    print("train", sum(v["train_bytes"] for v in stat.values()), "heldout", sum(v["heldout_bytes"] for v in stat.values()),
          "removed by 13-gram overlap", removed)


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":                # grams() uses hash(): same split every time
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable] + sys.argv)
    main()
