"""Tiny networks with random weights of every kind of model, and folders of them as their authors' files are laid out."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from steerpipe.models.geneformer import Geneformer, GeneformerSizes
from steerpipe.models.scgpt import Scgpt, ScgptSizes

from ..conftest import random_model


def randomise(model, seed=0, scale=0.2):
    """Draw every parameter, LayerNorms and biases too, and freeze it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * scale)
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.add_(1)
    return model.eval().requires_grad_(False)


def scgpt(genes, *, most=30, width=16, layers=3, inner=24, bins=11):
    """scGPT whose <pad>, <cls> and <eoc> come after its genes, as in the published vocabulary."""
    n = len(genes)
    sizes = ScgptSizes(width, layers, 2, inner, most, n_bins=bins, vocabulary=n + 3)
    model = Scgpt(sizes, genes, np.r_[np.arange(n), n + 1])
    return randomise(model)


def save_scgpt(model, folder):
    """Write a network as scGPT's files: the flash-attention names of the published checkpoints, and heads that are not run."""
    folder.mkdir(parents=True, exist_ok=True)
    arch, n = model.arch, len(model.genes)
    args = {"embsize": arch.hidden_size, "nlayers": arch.num_hidden_layers, "nheads": arch.num_attention_heads}
    args |= {"d_hid": arch.intermediate_size, "n_bins": arch.n_bins, "max_seq_len": arch.max_position_embeddings + 1}
    args |= {"input_style": "binned", "input_emb_style": "continuous", "pad_token": "<pad>", "pad_value": -2}
    (folder / "args.json").write_text(json.dumps(args))
    rows = {gene: i for i, gene in enumerate(model.genes)} | {"<pad>": n, "<cls>": n + 1, "<eoc>": n + 2}
    (folder / "vocab.json").write_text(json.dumps(rows))
    state = {name.replace("in_proj_", "Wqkv."): value for name, value in model.state_dict().items()}
    torch.save(state | {"cls_decoder.out_layer.bias": torch.zeros(1)}, folder / "best_model.pt")
    return folder


def aido(genes):
    """AIDO.Cell's architecture."""
    return random_model(genes)


def geneformer(genes, *, special=True, most=30, width=16, layers=3, inner=24):
    """Geneformer: V2 with <cls> and <eos>, or V1; rows of genes in another order than the genes."""
    from transformers import BertConfig, BertForMaskedLM

    n, other = len(genes), 4 if special else 2
    sizes = GeneformerSizes(width, layers, 2, inner, most, special=special)
    config = BertConfig(
        vocab_size=n + other,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=inner,
        max_position_embeddings=most + 2 * special,
        hidden_act="relu",
        pad_token_id=0,
        attn_implementation="sdpa",
    )
    rows = np.r_[other + np.arange(n), [2, 3]] if special else other + np.arange(n)
    return randomise(Geneformer(sizes, genes, BertForMaskedLM(config), rows, 0.5 + np.arange(n) % 7))


def save_geneformer(model, folder):
    """Write a network as Geneformer's files, with genes.csv as geneformer_tables makes it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(model.lm.config.to_json_string(use_diff=False))
    state = {name: value for name, value in model.lm.state_dict().items() if "predictions.decoder" not in name}
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors")
    special = ["<pad>", "<mask>", "<cls>", "<eos>"][: 4 if model.arch.special else 2]
    names, n = [*special, *model.genes], len(special)
    table = pd.DataFrame({"gene": names, "ensembl_id": names, "token": range(len(names))})
    table.assign(median=[None] * n + model.medians.tolist()).to_csv(folder / "genes.csv", index=False)
    return folder
