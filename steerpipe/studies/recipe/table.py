"""What a recipe study says in words; a negative result is said as one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...pipeline.program_scores import LEVEL, RECIPE, beyond, row_of, verdict


@dataclass(frozen=True)
class Answer:
    """What a recipe comes to.

    Attributes
    ----------
    scores : of program_scores.summary; terms : of terms.feature_terms; genes, found : of compute.Back.explained
    loop : of compute.Back.loop with p of the rise on all genes; None where nothing was named
    """

    name: str
    n_features: int
    scores: pd.DataFrame
    terms: pd.DataFrame
    genes: pd.DataFrame
    found: dict[str, float]
    loop: pd.DataFrame | None
    loop_p: float

    @property
    def beyond(self) -> bool:
        """Whether the programme's held-out half rises beyond its nulls."""
        return beyond(self.scores)

    @property
    def named(self) -> pd.DataFrame:
        """The named perturbations."""
        return self.genes[self.genes["named"].to_numpy(bool)]

    def lines(self) -> list[str]:
        """Return the conclusion."""
        return [verdict(self.name, self.scores, self.n_features), self._features(), self._back(), self._loop()]

    def _features(self) -> str:
        n, known = len(self.terms), self.terms["q"] < LEVEL
        circular = int((self.terms["circular_q"] < LEVEL).sum())
        terms = "; ".join(dict.fromkeys(self.terms.loc[known, "term"].head(4)))
        return (
            f"Of {n} features {int(known.sum())} have a term without the programme's own genes"
            + (f" ({terms})" if terms else "")
            + f"; {circular} with them, which is circular."
        )

    def _back(self) -> str:
        found = self.found
        share = (
            f"{found['explained']:.0%} of the recipe's shift (random recipes {found['random_mean']:.0%}, p = {found['p']:.2g}"
        )
        share += f"; as many candidates dealt anew {found['dealt_mean']:.0%})" if np.isfinite(found["dealt_mean"]) else ")"
        if not len(self.named):
            return f"Back-translation: nothing: no perturbation is stable and beyond random recipes; all explain {share}."
        names = ", ".join(f"{row.gene} {row.kind} ({row.stability:.0%})" for row in self.named.itertuples())
        weak = "" if found["p"] <= LEVEL else " That is no more than of random recipes."
        return f"Back-translation names {names}; the combination explains {share}.{weak}"

    def _loop(self) -> str:
        if self.loop is None:
            return "The loop was not closed: there is nothing to perturb."
        means = self.loop[self.loop["half"] == "all"].groupby("what")["rise"].mean()
        recipe = float(row_of(self.scores, RECIPE, "all")["rise"])
        together, random = float(means["named together"]), float(means["random candidates"])
        said = (
            "the named perturbations raise the programme" if self.loop_p <= LEVEL and together > 0 else "nothing beyond chance"
        )
        return (
            f"Closing the loop: {said}: together {together:+.3f} log1p CP10K in held-out cells, {recipe:+.2f} by the recipe, "
            f"{random:+.3f} of as many random candidates (p = {self.loop_p:.2g})."
        )

    def metrics(self) -> dict[str, float]:
        """Return the headline numbers."""
        held = row_of(self.scores, RECIPE)
        numbers = {"rise": held["rise"], "sds": held["sds"], "rise_seen": row_of(self.scores, RECIPE, "seen")["rise"]}
        numbers |= {name: held[name] for name in ("p_program", "p_features", "p_cross")}
        numbers |= {"features": self.n_features, "beyond": int(self.beyond), "named": len(self.named), "loop_p": self.loop_p}
        if self.loop is not None:
            together = self.loop[(self.loop["half"] == "all") & (self.loop["what"] == "named together")]
            numbers["loop_rise"] = float(together["rise"].iloc[0])
        numbers |= self.found
        return {f"recipe/{name}": float(value) for name, value in numbers.items()}
