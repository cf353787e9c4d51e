"""The sparse autoencoder. Letters: N tokens, D model width, F features, K active features per token."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Codes(NamedTuple):
    """Sparse codes: values float (..., K) and feature indices int64 (..., K) of the active features of each token."""

    values: Tensor
    indices: Tensor

    def dense(self, n_features: int) -> Tensor:
        """Return the codes as (..., F) with zeros."""
        return self.values.new_zeros(*self.values.shape[:-1], n_features).scatter(-1, self.indices, self.values)

    def of(self, feature: int) -> Tensor:
        """Return one feature's code at every token, (...); 0 where it is silent."""
        return torch.where(self.indices == feature, self.values, 0.0).sum(-1)


class TopKSAE(nn.Module):
    """z = TopK(act((x - b_pre) W_enc + b_enc)), x_hat = z W_dec + b_dec + b_pre.

    b_pre is a vector (D,) or, of a gene-centred SAE, a vector of each of its G genes, (G, D): codes then are of how far a token
    is from its gene's mean. Tokens of such an SAE are whole cells', (..., G, D) with its genes in order; `at` gives the SAE of
    some of them. Features and decoder rows are the same for all genes.

    Parameters
    ----------
    d_in, n_features, k : D, F and K
    activation : identity (signed codes) or relu, before TopK
    unit_norm : whether training keeps decoder rows at length 1

    Attributes
    ----------
    genes : the G genes' symbols; none where b_pre is one vector
    """

    genes: tuple[str, ...] = ()

    def __init__(self, d_in: int, n_features: int, k: int, *, activation: str = "identity", unit_norm: bool = True) -> None:
        super().__init__()
        self.k, self.activation, self.unit_norm = k, activation, unit_norm
        self.W_enc = nn.Parameter(torch.empty(d_in, n_features))
        self.b_enc = nn.Parameter(torch.zeros(n_features))
        self.W_dec = nn.Parameter(torch.empty(n_features, d_in))
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.b_pre = nn.Parameter(torch.zeros(d_in), requires_grad=False)

    @property
    def n_features(self) -> int:
        return self.W_dec.shape[0]

    @property
    def gene_centred(self) -> bool:
        """Whether b_pre is a vector of each gene."""
        return self.b_pre.ndim == 2

    def at(self, columns: np.ndarray | Tensor) -> Self:
        """Return the SAE of some genes' tokens, int64 (n,) positions among its own, weights shared; itself for one b_pre."""
        if not self.gene_centred:
            return self
        where = torch.as_tensor(columns, device=self.b_pre.device)
        made = copy.copy(self)
        made._parameters = {**self._parameters, "b_pre": nn.Parameter(self.b_pre[where], requires_grad=False)}
        made.genes = tuple(self.genes[i] for i in where.tolist()) if self.genes else ()  # a baseline names none
        return made

    def centre_genes(self, means: Tensor, genes: tuple[str, ...]) -> Self:
        """Turn an SAE of deviations from gene means (G, D) into the gene-centred SAE of the tokens themselves, in place."""
        self.b_pre = nn.Parameter(means + self.b_pre, requires_grad=False)
        self.genes = genes
        return self

    def initialise(self, seed: int) -> TopKSAE:
        """Draw unit decoder rows and tie the encoder to them."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            rows = torch.randn(self.W_dec.shape, generator=generator)
            self.W_dec.copy_(F.normalize(rows, dim=1))
            self.W_enc.copy_(self.W_dec.T)
        return self

    def pre_activations(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., F), before TopK."""
        if self.gene_centred and x.shape[-2:-1] != self.b_pre.shape[:1]:  # one token would be broadcast to all genes
            raise ValueError(f"tokens {tuple(x.shape)} of an SAE of {len(self.b_pre)} genes: take `at` for some of its genes")
        pre = (x - self.b_pre) @ self.W_enc + self.b_enc
        return F.relu(pre) if self.activation == "relu" else pre

    def encode(self, x: Tensor) -> Codes:
        """(..., D) -> Codes (..., K)."""
        return Codes(*self.pre_activations(x).topk(self.k, dim=-1, sorted=False))

    def decode(self, codes: Codes) -> Tensor:
        """Codes (..., K) -> (..., D)."""
        return weighted_rows(codes, self.W_dec) + self.b_dec + self.b_pre

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct x (..., D)."""
        return self.decode(self.encode(x))


class ThresholdSAE(TopKSAE):
    """An SAE whose code passes where it exceeds its feature's threshold: JumpReLU, and what BatchTopK training ends in.

    Parameters
    ----------
    k : the mean number of active features that it was trained for (a token may have more or fewer)

    Attributes
    ----------
    threshold : float32 (F,), of the codes
    """

    def __init__(self, d_in: int, n_features: int, k: int, **options: Any) -> None:
        super().__init__(d_in, n_features, k, **options)
        self.threshold = nn.Parameter(torch.zeros(n_features), requires_grad=False)

    def encode(self, x: Tensor) -> Codes:
        """(..., D) -> Codes (..., K), K the most that any of these tokens has; the codes of the others end in zeros."""
        pre = self.pre_activations(x)
        on = pre > self.threshold
        k = max(1, int(on.sum(-1).max())) if on.numel() else 1
        values, indices = torch.where(on, pre, -torch.inf).topk(k, dim=-1, sorted=False)
        return Codes(torch.where(values > -torch.inf, values, 0.0), indices)

    @classmethod
    def of(cls, sae: TopKSAE, threshold: float) -> ThresholdSAE:
        """Return an SAE with the same weights and one threshold for all features."""
        made = cls(sae.W_dec.shape[1], sae.n_features, sae.k, activation=sae.activation, unit_norm=sae.unit_norm)
        made.load_state_dict(sae.state_dict() | {"threshold": torch.full((sae.n_features,), threshold)})
        return made


def weighted_rows(codes: Codes, rows: Tensor) -> Tensor:
    """Return sum_k values_k * rows[indices_k], (..., K) codes and (F, D) rows -> (..., D), without a dense code."""
    shape = codes.values.shape
    flat = F.embedding_bag(
        codes.indices.reshape(-1, shape[-1]), rows, per_sample_weights=codes.values.reshape(-1, shape[-1]), mode="sum"
    )
    return flat.reshape(*shape[:-1], rows.shape[1])


def fold_scale(sae: TopKSAE, scale: float) -> TopKSAE:
    """Turn an SAE of (x - b_pre) * scale into the same SAE of x, in place.

    Codes are divided by the scale, so that decoder rows keep their length; b_pre stays.
    """
    with torch.no_grad():
        sae.b_enc.div_(scale)
        sae.b_dec.div_(scale)
        if isinstance(sae, ThresholdSAE):
            sae.threshold.div_(scale)
    return sae
