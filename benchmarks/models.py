"""`make bench-models`: scGPT and Geneformer at their real sizes under random weights: how far from a second implementation.

Real cells of a dataset of $STEER_DATA, its genes as the vocabulary, filled up to the published number of rows. scGPT stands
beside torch's own encoder layers, which the published code stacks, Geneformer beside BertForMaskedLM's own forward pass: the
largest difference of every block's stream and of the output, seconds a cell, and that a pass from the middle is the whole pass.
Nothing here is of the published weights. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steerpipe.config import DatasetConfig
from steerpipe.data import datasets
from steerpipe.data.cells import CellSource
from steerpipe.models.base import CellModel, read_out
from steerpipe.models.geneformer import Geneformer, GeneformerSizes
from steerpipe.models.scgpt import Scgpt, ScgptSizes

SCGPT = ScgptSizes(512, 12, 8, 512, 1199, n_bins=51, vocabulary=60697)
GENEFORMER = {
    "Geneformer V1-10M": (GeneformerSizes(256, 6, 4, 512, 2048), 25426),
    "Geneformer V2-104M": (GeneformerSizes(768, 12, 12, 3072, 4094, special=True), 20275),
}
"""Sizes of the released checkpoints, as their configuration files give them."""


def randomise(model: nn.Module) -> Any:
    """Draw every parameter so that streams neither vanish nor blow up, LayerNorms and biases too."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            scale = 0.1 if p.ndim == 1 else 1 / p.shape[-1] ** 0.5
            p.copy_(torch.randn(p.shape, generator=generator) * scale)
            if "norm" in name.lower() and name.endswith("weight"):
                p.add_(1.0)
    return model.eval().requires_grad_(False)


def torch_streams(model: Scgpt, embedded: Tensor, there: Tensor) -> list[Tensor]:
    """Return the streams after every block by torch's own post-norm encoder layers with the model's weights."""
    arch, r, found = model.arch, embedded, []
    for block in model.blocks:
        layer = nn.TransformerEncoderLayer(
            arch.hidden_size, arch.num_attention_heads, arch.intermediate_size, dropout=0.0, batch_first=True
        )
        layer.load_state_dict(block.state_dict())
        with torch.enable_grad():  # without a gradient it takes a fused path
            r = layer.eval()(r, src_key_padding_mask=~there).detach()
        found.append(r)
    return found


def bert_streams(model: Geneformer, genes: Tensor, there: Tensor) -> list[Tensor]:
    """Return the streams after every block by BertForMaskedLM's own forward pass."""
    ids = torch.where(there, model.rows[genes.clamp_min(0)], 0)
    out = model.lm(input_ids=ids, attention_mask=there.long(), output_hidden_states=True)
    return list(out.hidden_states[1:])


def compare(name: str, model: CellModel, cells: CellSource, n: int) -> dict[str, Any]:
    """Return the differences and times of some cells."""
    tokens = model.tokens(cells[:n])
    there, layers, read = tokens.genes >= 0, range(model.arch.num_hidden_layers), torch.from_numpy(cells.valid)
    start = time.process_time()
    with torch.no_grad():
        ours = model.streams(tokens, [-1, *layers])
    seconds = (time.process_time() - start) / n
    with torch.no_grad():
        if isinstance(model, Scgpt):
            theirs = torch_streams(model, ours[-1], there)
        else:
            assert isinstance(model, Geneformer)
            theirs = bert_streams(model, tokens.genes, there)
        top, middle = layers[-1], len(layers) // 2
        start = time.process_time()
        whole = read_out(model, top, ours[top], tokens, read)
        read_seconds = (time.process_time() - start) / n
        half = read_out(model, middle, ours[middle], tokens, read)
    assert whole.expression is not None
    assert half.expression is not None
    differences = [float((ours[i] - theirs[i])[there].abs().max()) for i in layers]
    row = {
        "model": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": [int(x) for x in there.sum(1)],
        "stream_sd": float(ours[top][there].std()),
        "blocks": differences,
        "from_the_middle": float((half.expression - whole.expression).abs().max()),
        "seconds_a_cell": round(seconds, 2),
        "readout_seconds": round(read_seconds, 2),
    }
    print(f"{name}: {row['parameters']:,} parameters, {row['tokens']} tokens; blocks, max |difference|:")
    print("  " + " ".join(f"{x:.1e}" for x in differences) + f"  (sd of the last stream {row['stream_sd']:.2f})")
    print(f"  readout from block {middle}: {row['from_the_middle']:.1e}; {seconds:.2f} s a cell, readout {read_seconds:.2f} s")
    return row


def main() -> None:
    """Compare every model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="pbmc3k")
    parser.add_argument("--cells", type=int, default=2)
    parser.add_argument("--models", nargs="+", default=["scGPT", *GENEFORMER])
    words = parser.parse_args()
    adata = datasets.load(DatasetConfig(name=words.dataset))
    names = list(dict.fromkeys(adata.var_names))
    rows = []
    for name in words.models:
        n_rows = SCGPT.vocabulary if name == "scGPT" else GENEFORMER[name][1]
        genes = (names + [f"other{i}" for i in range(n_rows)])[: n_rows - 4]
        place = np.arange(4, n_rows)
        if name == "scGPT":
            model = randomise(Scgpt(SCGPT, genes, np.r_[place, 1]))
        else:
            from transformers import BertConfig, BertForMaskedLM

            sizes, n_rows = GENEFORMER[name]
            config = BertConfig(
                vocab_size=n_rows,
                hidden_size=sizes.hidden_size,
                num_hidden_layers=sizes.num_hidden_layers,
                num_attention_heads=sizes.num_attention_heads,
                intermediate_size=sizes.intermediate_size,
                max_position_embeddings=sizes.max_position_embeddings + 2 * sizes.special,
                hidden_act="relu",
                pad_token_id=0,
                attn_implementation="sdpa",
            )
            medians = np.random.default_rng(0).lognormal(0, 1, len(genes))
            rows_of = np.r_[place, [2, 3]] if sizes.special else place
            model = randomise(Geneformer(sizes, genes, BertForMaskedLM(config), rows_of, medians))
        cells = CellSource(adata, genes, DatasetConfig(name=words.dataset))
        rows.append(compare(name, model, cells, words.cells))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
