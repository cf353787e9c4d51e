"""Train a tiny scGPT or Geneformer on the embedded cells, and write it as its authors' folders are laid out.

    python -m benchmarks.tiny_models scGPT /tmp/tiny-scgpt --steps 600

So that the pipeline can be seen on such a model that has learnt something, where the published weights cannot be had: masked
values for scGPT (a third of a cell's bins), masked genes for Geneformer (15 %), on cells that nothing is scored on. The last
line is one JSON object: the loss on the test cells before and after, and that of what knows no cell.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from steerpipe.cli.hydra import compose
from steerpipe.data import datasets
from steerpipe.data.cells import CellSource
from steerpipe.data.split import fit_and_test
from steerpipe.models.base import Tokens, hide
from steerpipe.models.geneformer import Geneformer, GeneformerSizes
from steerpipe.models.scgpt import Scgpt, ScgptSizes

WIDTH, BLOCKS, HEADS, INNER = 64, 4, 4, 128


def make_scgpt(genes: list[str], most: int) -> Scgpt:
    """Return a network with torch's own initial weights."""
    n = len(genes)
    model = Scgpt(ScgptSizes(WIDTH, BLOCKS, HEADS, INNER, most, n_bins=51, vocabulary=n + 3), genes, np.r_[np.arange(n), n + 1])
    for block in model.blocks:
        torch.nn.init.xavier_uniform_(block.self_attn.in_proj_weight)  # type: ignore[union-attr, arg-type]
        torch.nn.init.zeros_(block.self_attn.in_proj_bias)  # type: ignore[union-attr, arg-type]
    return model


def make_geneformer(genes: list[str], most: int, counts: Any) -> Geneformer:
    """Return a network with transformers' initial weights; medians are those of the cells' CP10K above 0."""
    from transformers import BertConfig, BertForMaskedLM

    n = len(genes)
    config = BertConfig(
        vocab_size=n + 4, hidden_size=WIDTH, num_hidden_layers=BLOCKS, num_attention_heads=HEADS, intermediate_size=INNER,
        max_position_embeddings=most + 2, hidden_act="relu", pad_token_id=0, attn_implementation="sdpa",
    )  # fmt: skip
    dense = counts.toarray() / counts.sum(1) * 1e4
    medians = np.array([np.median(x[x > 0]) if (x > 0).any() else 1.0 for x in np.asarray(dense).T])
    sizes = GeneformerSizes(WIDTH, BLOCKS, HEADS, INNER, most, special=True)
    return Geneformer(sizes, genes, BertForMaskedLM(config), np.r_[4 + np.arange(n), [2, 3]], medians)


def loss_of(model: Scgpt | Geneformer, tokens: Tokens, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the loss at masked gene tokens, and what was to be predicted there."""
    of_gene = (tokens.genes >= 0) & (tokens.genes < len(model.genes))
    hidden = of_gene & (torch.rand(of_gene.shape, generator=generator) < (1 / 3 if isinstance(model, Scgpt) else 0.15))
    final = model.stream(hide(tokens, hidden), len(model.blocks) - 1)
    truth = tokens.values if isinstance(model, Scgpt) else model.rows[tokens.genes.clamp_min(0)]
    return model.masked_loss(final, tokens, hidden).mean(), truth[hidden]


def held_out(model: Scgpt | Geneformer, cells: CellSource, test: np.ndarray) -> tuple[float, Tensor]:
    """Return the loss on the test cells, always with the same masks, and what was to be predicted."""
    with torch.no_grad():
        loss, truth = loss_of(model.eval(), model.tokens(cells[test]), torch.Generator().manual_seed(9))
    return float(loss), truth


def save(model: Scgpt | Geneformer, folder: Path) -> None:
    """Write the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    genes, licence = list(model.genes), "CC BY 4.0 (a tiny model of our own, trained by benchmarks/tiny_models.py)"
    if isinstance(model, Scgpt):
        arch = model.arch
        args = {"embsize": WIDTH, "nlayers": BLOCKS, "nheads": HEADS, "d_hid": INNER, "n_bins": arch.n_bins, "licence": licence}
        args |= {"max_seq_len": arch.max_position_embeddings + 1, "input_emb_style": "continuous", "pad_token": "<pad>"}
        (folder / "args.json").write_text(json.dumps(args, indent=1))
        rows = {name: i for i, name in enumerate([*genes, "<pad>", "<cls>", "<eoc>"])}
        (folder / "vocab.json").write_text(json.dumps(rows))
        torch.save(model.state_dict(), folder / "best_model.pt")
        return
    settings = json.loads(model.lm.config.to_json_string(use_diff=False)) | {"licence": licence}
    (folder / "config.json").write_text(json.dumps(settings, indent=1))
    state = {name: value.contiguous() for name, value in model.lm.state_dict().items() if "predictions.decoder" not in name}
    save_file(state, folder / "model.safetensors")
    names = ["<pad>", "<mask>", "<cls>", "<eos>", *genes]
    table = pd.DataFrame({"gene": names, "ensembl_id": names, "token": range(len(names))})
    table.assign(median=[None] * 4 + model.medians.tolist()).to_csv(folder / "genes.csv", index=False)


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["scGPT", "Geneformer"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=16)
    words = parser.parse_args()
    config = compose()
    adata = datasets.load(config.dataset)
    genes = sorted(map(str, adata.var_names))
    cells = CellSource(adata, genes, config.dataset)
    fit, test = fit_and_test(cells.obs, config.dataset)
    torch.manual_seed(0)
    most = 400
    model = make_scgpt(genes, most) if words.kind == "scGPT" else make_geneformer(genes, most, cells[fit])
    before, truth = held_out(model, cells, test)
    if words.kind == "scGPT":
        blind = float(truth.var())
    else:
        shares = torch.bincount(truth, minlength=len(genes) + 4).double() / len(truth)
        blind = float(-(shares[shares > 0] * shares[shares > 0].log()).sum())  # the test cells' own frequencies: kind to it
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=words.steps)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    for step in range(words.steps):
        batch = np.sort(rng.choice(fit, words.batch, replace=False))
        loss, _ = loss_of(model.train(), model.tokens(cells[batch]), generator)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {float(loss):.3f}", flush=True)
    after, _ = held_out(model, cells, test)
    save(model, words.folder)
    sizes = {"parameters": sum(p.numel() for p in model.parameters()), "genes": len(genes), "cells": len(fit)}
    print(json.dumps({"kind": words.kind, **sizes, "steps": words.steps, "before": before, "after": after, "blind": blind}))


if __name__ == "__main__":
    main()
