#!/usr/bin/env python3
"""plot_loss.py - loss.png from loss.csv.

usage: plot_loss.py loss.csv loss.png
"""
import csv, sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

rows = list(csv.DictReader(open(sys.argv[1])))
fig, ax = plt.subplots(figsize=(7, 4.2), dpi=110)
for kind, key, label, style in (("train", "main_nats", "training, next token", "-"), ("train", "mtp_nats", "training, MTP (the token after)", "-"),
                                ("heldout", "main_nats", "held out, next token (512-token windows)", "o--")):
    r = [x for x in rows if x["kind"] == kind]
    ax.plot([int(x["tokens"]) / 1e6 for x in r], [float(x[key]) for x in r], style, label=label, lw=1.1, ms=3.5)
ax.set_xlabel("training tokens (millions)")
ax.set_ylabel("nats per token")
ax.set_ylim(top=7)
ax.grid(alpha=0.3)
ax.legend()
ax.set_title("Demo model: loss")
fig.tight_layout()
fig.savefig(sys.argv[2])
