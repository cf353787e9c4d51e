"""A folder of Geneformer's: config.json and model.safetensors as its authors give them out, and genes.csv.

Geneformer's token dictionary and gene medians come as pickles, which can run anything: they are converted once, by
`python -m steerpipe.models.geneformer_tables`, and never read here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import load_file

from ..errors import SteerError
from .geneformer import Geneformer, GeneformerSizes
from .kinds import check_weights, read_json

TABLE = "genes.csv"
WEIGHTS = "model.safetensors"
FILES = ("config.json", TABLE, WEIGHTS)
LICENCE = "Geneformer's code and weights are under the Apache License 2.0 (ctheodoris/Geneformer)."
COLUMNS = ("gene", "ensembl_id", "token", "median")
SPECIAL = ("<cls>", "<eos>")


def read_sizes(folder: Path) -> GeneformerSizes:
    """Read and check config.json, and whether the dictionary has <cls> and <eos>."""
    settings, where = read_json(folder / "config.json"), folder / "config.json"
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    missing = [name for name in (*names, "vocab_size") if not isinstance(settings.get(name), int)]
    if missing:
        raise SteerError(f"{where}: {', '.join(missing)} must be whole numbers.")
    if settings.get("is_decoder", False) or settings.get("position_embedding_type", "absolute") != "absolute":
        raise SteerError(f"{where}: Geneformer is an encoder with absolute positions; this is another BERT.")
    width, layers, heads, inner, most = (settings[name] for name in names)
    if width % heads:
        raise SteerError(f"{where}: hidden_size={width} does not divide by num_attention_heads={heads}.")
    table = _table(folder)
    special = bool(table["gene"].isin(SPECIAL).sum() == len(SPECIAL))
    if table["token"].max() >= settings["vocab_size"]:
        what = f"{folder}/{TABLE} has token {table['token'].max()}, but the model has {settings['vocab_size']} rows"
        raise SteerError(f"{what}: V1 and V2 have dictionaries of their own; convert the one that belongs to it.")
    return GeneformerSizes(width, layers, heads, inner, most - 2 * special, special=special)


def read_genes(folder: Path) -> tuple[str, ...]:
    """Return the vocabulary's genes, in the order of their rows."""
    return tuple(_genes(folder)["gene"])


def read_has_head(folder: Path) -> bool:
    """Return False: it predicts which gene stands where, and no objective is put on that."""
    return False


def read_licence(folder: Path) -> str:
    """Return config.json's own `licence`, or Geneformer's."""
    return str(read_json(folder / "config.json").get("licence", LICENCE))


def load(folder: Path) -> Geneformer:
    """Return the network, float32, frozen, on the CPU.

    Raises
    ------
    SteerError
        `transformers` is missing; a file is missing or broken, or keys and sizes do not fit.
    """
    sizes, table = read_sizes(folder), _table(folder)
    try:
        from transformers import BertConfig, BertForMaskedLM
    except ImportError as error:
        raise SteerError("model=geneformer needs the package transformers: pip install 'steerpipe[geneformer]'.") from error
    settings = read_json(folder / "config.json")
    bert = BertForMaskedLM(BertConfig(**settings | {"attn_implementation": "sdpa", "torch_dtype": "float32"}))
    file = folder / WEIGHTS
    if not file.is_file():
        raise SteerError(f"no weights in {folder}: {WEIGHTS} is missing (a pytorch_model.bin is not read here).")
    try:
        state = {name: value.float() for name, value in load_file(file).items()}
    except Exception as error:  # safetensors raises many types for a broken file
        raise SteerError(f"{file} cannot be read as weights ({type(error).__name__}); fetch the file again.") from error
    # the decoder shares the embedding's weight and the head's bias, and files leave it out
    tied = {"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"}
    tied |= {"cls.predictions.decoder.bias": "cls.predictions.bias"}
    state |= {name: state[other] for name, other in tied.items() if name not in state and other in state}
    state = {name: value for name, value in state.items() if not name.startswith("bert.pooler.") and "position_ids" not in name}
    check_weights(bert, state, folder, "those of the BertForMaskedLM that config.json describes", ", config.json says")
    bert.load_state_dict(state)
    genes = _genes(folder)
    rows = genes["token"].tolist()
    if sizes.special:
        at = table.set_index("gene")["token"]
        rows += [at[name] for name in SPECIAL]
    (mask,) = table.loc[table["gene"] == "<mask>", "token"].tolist() or [1]
    model = Geneformer(sizes, genes["gene"], bert, np.array(rows), genes["median"].to_numpy(np.float64), mask)
    return model.eval().requires_grad_(False)


def _genes(folder: Path) -> pd.DataFrame:
    """The rows of genes.csv that are genes, by token."""
    table = _table(folder)
    return table[~table["gene"].str.fullmatch("<.*>")].sort_values("token").reset_index(drop=True)


def _table(folder: Path) -> pd.DataFrame:
    """genes.csv, checked."""
    file, how = folder / TABLE, f"python -m steerpipe.models.geneformer_tables {folder} TOKENS.pkl MEDIANS.pkl NAMES.pkl"
    if not file.is_file():
        raise SteerError(
            f"{folder} has no {TABLE}: Geneformer's token dictionary and medians are pickles, which steer does not read. "
            f"Convert them once: {how}"
        )
    table = pd.read_csv(file, keep_default_na=False, na_values={"median": [""]}, dtype={"gene": str, "ensembl_id": str})
    if tuple(table.columns) != COLUMNS:
        raise SteerError(f"{file} has columns {', '.join(table.columns)} and needs {', '.join(COLUMNS)}: make it by {how}")
    genes = table[~table["gene"].str.fullmatch("<.*>")]
    if table["token"].duplicated().any() or table["gene"].duplicated().any() or not (genes["median"] > 0).all():
        raise SteerError(f"{file} must give every gene one token and a median above 0: make it by {how}")
    return table
