"""What a trained SAE has to beat at the same layer: raw neurons, PCA, FastICA and a random, untrained SAE.

Each is fitted on a sample of training tokens, and offers what TopKSAE offers: `n_features`, `encode(x) -> Codes`,
`decode(codes)`. The linear ones keep all codes of a token (k = F), their k largest, or, for PCA, the first k
components: `sparse(k)` and `first(k)` give the same dictionary at the L0 of an SAE.

Beside a gene-centred SAE they are gene-centred too, by the same means: those are many parameters, and no merit of an SAE.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from ..activations.tokens import TokenSource
from .model import Codes, TopKSAE, weighted_rows

SAMPLE_TOKENS = 50_000
SAMPLE_CELLS = 512
CELLS_AT_ONCE = 64
ICA_STEPS = 400
ICA_TOLERANCE = 1e-3
NAMES = ("neurons", "pca", "ica", "random")


class FeatureDictionary(Protocol):
    """What turns tokens (..., D) into codes of F features and back: TopKSAE, and the baselines."""

    @property
    def n_features(self) -> int: ...

    @property
    def W_dec(self) -> Tensor: ...

    @property
    def gene_centred(self) -> bool: ...

    def at(self, columns: np.ndarray | Tensor) -> FeatureDictionary: ...

    def encode(self, x: Tensor) -> Codes: ...

    def decode(self, codes: Codes) -> Tensor: ...

    def to(self, device: torch.device) -> FeatureDictionary: ...


def own_batches(
    dictionaries: Sequence[FeatureDictionary], source: TokenSource, cells: np.ndarray, batch_size: int
) -> Iterator[tuple[Tensor, list[FeatureDictionary]]]:
    """Yield tokens (n, D) and the dictionaries of them: cell by cell where any depends on the gene, else by batch_size."""
    if not any(one.gene_centred for one in dictionaries):
        yield from ((batch, list(dictionaries)) for batch in source.batches(cells, batch_size))
        return
    for columns, x in source.cell_by_cell(cells):
        yield torch.from_numpy(x), [one.at(columns) for one in dictionaries]


@dataclass(frozen=True)
class LinearDictionary:
    """z = (x - centre) W_enc, x_hat = z W_dec + centre, with unit decoder rows: |z| is the length of a feature's part.

    Attributes
    ----------
    centre : float32 (D,), or (G, D), one of each gene (see TopKSAE); W_enc : (D, F); W_dec : (F, D)
    k : codes kept of a token; F is all of them
    leading : keep features 0..k-1 instead of the k largest |z|
    """

    centre: Tensor
    W_enc: Tensor
    W_dec: Tensor
    k: int
    leading: bool = False

    @property
    def n_features(self) -> int:
        return self.W_dec.shape[0]

    @property
    def gene_centred(self) -> bool:
        """Whether each gene has a centre."""
        return self.centre.ndim == 2

    def at(self, columns: np.ndarray | Tensor) -> LinearDictionary:
        """Return the dictionary of some genes' tokens, int64 (n,) positions among its own; itself for one centre."""
        if not self.gene_centred:
            return self
        return replace(self, centre=self.centre[torch.as_tensor(columns, device=self.centre.device)])

    def centre_genes(self, means: Tensor) -> LinearDictionary:
        """Return the dictionary of tokens of which this one is of their deviations from gene means (G, D)."""
        return replace(self, centre=means + self.centre)

    def to(self, device: torch.device) -> LinearDictionary:
        """Return the dictionary on a device."""
        return replace(self, centre=self.centre.to(device), W_enc=self.W_enc.to(device), W_dec=self.W_dec.to(device))

    def sparse(self, k: int) -> LinearDictionary:
        """Return the dictionary that keeps the k largest |z| of each token."""
        return replace(self, k=min(k, self.n_features), leading=False)

    def first(self, k: int) -> LinearDictionary:
        """Return the dictionary that keeps features 0..k-1: for PCA, the best k-dimensional linear fit."""
        return replace(self, k=min(k, self.n_features), leading=True)

    def encode(self, x: Tensor) -> Codes:
        """(..., D) -> Codes (..., k)."""
        every = self.leading or self.k == self.n_features
        z = (x - self.centre) @ (self.W_enc[:, : self.k] if every else self.W_enc)
        if every:
            return Codes(z, torch.arange(self.k, device=x.device).expand(z.shape))
        indices = z.abs().topk(self.k, dim=-1, sorted=False).indices
        return Codes(z.gather(-1, indices), indices)

    def decode(self, codes: Codes) -> Tensor:
        """Codes (..., k) -> (..., D)."""
        return weighted_rows(codes, self.W_dec) + self.centre


@dataclass(frozen=True)
class Baselines:
    """The four baseline dictionaries of one layer.

    Attributes
    ----------
    neurons : the D dimensions, centred on their mean
    pca : D components by falling variance
    ica : FastICA's components (unit decoder rows); ica_converged says whether it reached its tolerance
    random : a TopK SAE with random unit decoder rows and a tied encoder, of the SAE's size and k, centred on the mean; one
        number, the least-squares gain of its decoder, is fitted
    """

    neurons: LinearDictionary
    pca: LinearDictionary
    ica: LinearDictionary
    random: TopKSAE
    ica_converged: bool
    ica_steps: int

    def items(self) -> dict[str, FeatureDictionary]:
        """Return {name: dictionary}, the linear ones with all their codes."""
        return {name: getattr(self, name) for name in NAMES}

    def save(self, folder: Path) -> None:
        """Write baselines.safetensors."""
        arrays = {f"{name}.{part}": getattr(getattr(self, name), part) for name in NAMES[:3] for part in ("W_enc", "W_dec")}
        arrays |= {"centre": self.neurons.centre} | {
            f"random.{name}": value for name, value in self.random.state_dict().items()
        }
        arrays["ica"] = torch.tensor([int(self.ica_converged), self.ica_steps])
        arrays["k"] = torch.tensor(self.random.k)
        save_file({name: value.contiguous().clone() for name, value in arrays.items()}, folder / "baselines.safetensors")

    def centre_genes(self, means: Tensor, genes: tuple[str, ...]) -> Baselines:
        """Return the baselines of tokens of which these are of their deviations from gene means (G, D)."""
        linear = {name: getattr(self, name).centre_genes(means) for name in NAMES[:3]}
        return replace(self, **linear, random=self.random.centre_genes(means, genes))

    @classmethod
    def load(cls, folder: Path) -> Baselines:
        """Read what `save` wrote."""
        arrays = load_file(folder / "baselines.safetensors")
        sizes = arrays["random.W_enc"].shape
        random = TopKSAE(sizes[0], sizes[1], int(arrays["k"]))
        random.b_pre = nn.Parameter(torch.zeros_like(arrays["random.b_pre"]), requires_grad=False)  # (D,) or (G, D)
        random.load_state_dict({name: arrays[f"random.{name}"] for name in random.state_dict()})
        converged, steps = arrays["ica"].tolist()
        neurons, pca, ica = (
            LinearDictionary(arrays["centre"], arrays[f"{name}.W_enc"], arrays[f"{name}.W_dec"], len(arrays[f"{name}.W_dec"]))
            for name in NAMES[:3]
        )
        return cls(neurons, pca, ica, random.eval().requires_grad_(False), bool(converged), steps)


def fit_baselines(
    source: TokenSource, cells: np.ndarray, n_features: int, k: int, *, seed: int = 0, n_tokens: int = SAMPLE_TOKENS
) -> Baselines:
    """Fit every baseline on a seeded sample of the gene tokens of the (training) cells.

    Memory: the sample, n_tokens * D * 8 bytes, a few times over in FastICA. Time: FastICA, 4 n_tokens D^2 FLOP a step.

    Parameters
    ----------
    n_features, k : of the SAE that they stand beside, for the random one
    """
    x = sample_tokens(source, cells, n_tokens, seed=seed).double()
    centre, D = x.mean(0), x.shape[1]
    eye = torch.eye(D, dtype=torch.float64)
    V = torch.linalg.eigh((x - centre).T @ (x - centre)).eigenvectors.flip(1)
    ica, converged, steps = _fast_ica(x.numpy(), seed)
    return Baselines(
        _linear(centre, eye, eye),
        _linear(centre, V, V.T),
        _linear(centre, *ica),
        random_sae(x.float(), n_features, k, seed=seed),
        converged,
        steps,
    )


def sample_tokens(source: TokenSource, cells: np.ndarray, n_tokens: int, *, seed: int = 0) -> Tensor:
    """Return float32 (n, D): about n_tokens tokens, the same number from each of up to 512 cells, both drawn at random."""
    rng = np.random.default_rng([seed, 11])
    some = np.sort(rng.choice(cells, min(SAMPLE_CELLS, len(cells)), replace=False))
    each = -(-n_tokens // len(some))
    kept = []
    for start in range(0, len(some), CELLS_AT_ONCE):
        for tokens in source.cells(some[start : start + CELLS_AT_ONCE]):
            kept.append(tokens[rng.choice(len(tokens), min(each, len(tokens)), replace=False)])
    return torch.from_numpy(np.concatenate(kept))


def random_sae(x: Tensor, n_features: int, k: int, *, seed: int = 0) -> TopKSAE:
    """Return an untrained TopK SAE centred on a sample x (N, D), its decoder scaled by one least-squares number.

    Without that gain the tied decoder overshoots, and the baseline would be a straw man.
    """
    sae = TopKSAE(x.shape[1], n_features, k).initialise(seed).requires_grad_(False)
    sae.b_pre.copy_(x.mean(0))
    dot = square = 0.0
    for batch in torch.split(x, 4096):
        centred = batch - sae.b_pre
        x_hat = sae(batch) - sae.b_pre
        dot += float((centred * x_hat).sum(dtype=torch.float64))
        square += float(x_hat.square().sum(dtype=torch.float64))
    sae.W_dec.mul_(dot / square)
    return sae.eval()


def _linear(centre: Tensor, W_enc: Tensor, W_dec: Tensor) -> LinearDictionary:
    """Bring decoder rows to length 1; the reconstruction stays."""
    length = W_dec.norm(dim=1)
    return LinearDictionary(
        centre.float(), (W_enc * length).float().contiguous(), (W_dec / length[:, None]).float().contiguous(), len(W_dec)
    )


def _fast_ica(x: np.ndarray, seed: int) -> tuple[tuple[Tensor, Tensor], bool, int]:
    """Return ((W_enc (D, F), W_dec (F, D)), converged, steps)."""
    ica = FastICA(whiten="unit-variance", whiten_solver="eigh", random_state=seed, max_iter=ICA_STEPS, tol=ICA_TOLERANCE)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        ica.fit(x)
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    return (torch.from_numpy(ica.components_.T.copy()), torch.from_numpy(ica.mixing_.T.copy())), converged, int(ica.n_iter_)
