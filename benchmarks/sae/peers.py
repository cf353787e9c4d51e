"""Four trainers behind one call: each gets its own public entry point, optimiser, loss and recommended rate, and our tokens.

A trainer is a function of a job and an iterable of float32 (batch, D) batches; it takes `job.steps` of them and returns the
dictionary that it would leave on disk. Rates are the libraries' own defaults; where the default warm-up is 1,000 steps (the
length of a whole short run) it is 5 % of the steps instead, as ours is.
"""

from __future__ import annotations

import hashlib
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


def quiet() -> None:
    """Switch the peers' progress bars off: two of them ask for one whatever TQDM_DISABLE says."""
    import tqdm

    original = tqdm.tqdm.__init__
    tqdm.tqdm.__init__ = lambda self, *args, **options: original(self, *args, **options | {"disable": True})


@dataclass(frozen=True)
class Job:
    """What is trained: D, F, K, tokens a step, steps, seed, a folder to write into, and a factor on the default rate."""

    width: int
    features: int
    k: int
    batch: int
    steps: int
    seed: int
    folder: Path
    rate: float = 1.0

    @property
    def warm_up(self) -> int:
        return max(1, self.steps // 20)


@dataclass(frozen=True)
class Trained:
    """A dictionary.

    Attributes
    ----------
    run : (n, D) -> reconstruction (n, D) and codes (n, F), dense
    rows : decoder, float32 (F, D)
    """

    run: Callable[[Tensor], tuple[Tensor, Tensor]]
    rows: np.ndarray


Trainer = Callable[[Job, Iterable[Tensor]], Trained]


def steerpipe(job: Job, batches: Iterable[Tensor], **settings: float) -> Trained:
    """Ours: train_sae with the default SaeConfig, or other settings, its reader replaced by the given batches."""
    from steerpipe.activations.tokens import TokenPolicy, TokenSource
    from steerpipe.config import SaeConfig
    from steerpipe.sae.train import train_sae

    class Given(TokenSource):
        """The batches, as often as they are asked for; `train_sae` asks once to fit its normalisation."""

        n_cells, n_genes, width, policy = 1, job.batch * job.steps, job.width, TokenPolicy()

        def batches(self, cells, batch_size, *, seed=None, skip=0):
            for number, x in enumerate(batches):
                if number >= skip:
                    yield x

    size: dict[str, int] = {"expansion": job.features // job.width, "k": job.k, "batch_size": job.batch, "seed": job.seed}
    config = SaeConfig(**size, tokens=job.steps * job.batch, **settings)
    config.lr *= job.rate
    sae = train_sae(Given(), np.arange(1), config, job.folder, device=torch.device("cpu"))

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        codes = sae.encode(x)
        return sae.decode(codes), codes.dense(job.features)

    return Trained(run, sae.W_dec.numpy())


def sparsify(job: Job, batches: Iterable[Tensor], optimiser: str = "signum") -> Trained:
    """EleutherAI's sparsify by its Trainer.fit: a model whose one block hands out the batches stands in for a transformer.

    Rate: TrainConfig's default, 5e-3 / sqrt(F / 2^14) for signum, which is its default optimiser, and
    2e-4 / sqrt(F / 2^14) for adam.
    """
    import sparsify.trainer
    from sparsify import SaeConfig, SparseCoder, TrainConfig

    sparsify.trainer.print = lambda *_: None  # stdout is the table's

    given = iter(batches)

    class Streams(nn.Module):
        """What Trainer.fit uses of a transformer: one hookable block, whose output is the next batch as one sequence."""

        device = torch.device("cpu")

        def __init__(self) -> None:
            super().__init__()
            self.block, self.dummy_inputs = nn.Identity(), {"input_ids": None}

        @property
        def base_model(self) -> nn.Module:
            return self

        def forward(self, input_ids: Tensor | None) -> Tensor:
            return self.block(torch.zeros(1, 1, job.width) if input_ids is None else next(given)[None])

    class Steps:
        def __len__(self) -> int:
            return job.steps

        def __getitem__(self, number: int) -> dict[str, Tensor]:
            if number >= job.steps:
                raise IndexError
            return {"input_ids": torch.zeros(job.batch, dtype=torch.int64)}

    config = TrainConfig(
        SaeConfig(expansion_factor=job.features // job.width, k=job.k),
        batch_size=1,  # sequences: one of job.batch tokens
        optimizer=optimiser,
        lr=job.rate * (5e-3 if optimiser == "signum" else 2e-4) / (job.features / 2**14) ** 0.5,
        lr_warmup_steps=job.warm_up,
        hookpoints=["block"],
        init_seeds=[job.seed],
        save_every=10**9,
        save_dir=str(job.folder),
        log_to_wandb=False,
    )
    sparsify.trainer.Trainer(config, Steps(), Streams()).fit()
    sae = SparseCoder.load_from_disk(job.folder / "unnamed" / "block")

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        out = sae(x)
        return out.sae_out, x.new_zeros(len(x), job.features).scatter(1, out.latent_indices, out.latent_acts)

    return Trained(run, sae.W_dec.detach().numpy())


def sparsify_adam(job: Job, batches: Iterable[Tensor]) -> Trained:
    """The same with Adam, nearest to what the others do."""
    return sparsify(job, batches, "adam")


def dictionary_learning(job: Job, batches: Iterable[Tensor]) -> Trained:
    """dictionary-learning by its trainSAE with a TopKTrainer; rate: its default, 2e-4 / sqrt(F / 2^14), constant."""
    if "nnsight" not in sys.modules:  # its activation buffer, which is not used here, imports it
        stand_in = types.ModuleType("nnsight")
        stand_in.LanguageModel = object
        sys.modules["nnsight"] = stand_in
    from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer
    from dictionary_learning.training import trainSAE

    config = {
        "trainer": TopKTrainer,
        "steps": job.steps,
        "activation_dim": job.width,
        "dict_size": job.features,
        "k": job.k,
        "lr": job.rate * 2e-4 / (job.features / 2**14) ** 0.5,
        "layer": 0,
        "lm_name": "none",
        "warmup_steps": job.warm_up,
        "seed": job.seed,
        "device": "cpu",
    }
    trainSAE(batches, [config], steps=job.steps, save_dir=str(job.folder), device="cpu")
    sae = AutoEncoderTopK.from_pretrained(str(job.folder / "trainer_0" / "ae.pt"))

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        codes = sae.encode(x)
        return sae.decode(codes), codes

    return Trained(run, sae.decoder.weight.detach().T.numpy().copy())


def saelens(job: Job, batches: Iterable[Tensor]) -> Trained:
    """SAELens by SAETrainer.fit with a TopKTrainingSAE; rate: SAETrainerConfig's default, 3e-4, constant."""
    from sae_lens import SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig

    torch.manual_seed(job.seed)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=job.width, d_sae=job.features, k=job.k))
    # a constant rate does not use its end
    config = SAETrainerConfig(job.batch * job.steps, job.batch, lr=3e-4 * job.rate, lr_end=3e-5)
    SAETrainer(config, sae, iter(batches)).fit()

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        codes = sae.encode(x)
        return sae.decode(codes), codes

    return Trained(run, nn.functional.normalize(sae.W_dec.detach(), dim=1).numpy())


TRAINERS: dict[str, Trainer] = {
    "steerpipe": steerpipe,
    "sparsify": sparsify,
    "sparsify (adam)": sparsify_adam,
    "dictionary-learning": dictionary_learning,
    "SAELens": saelens,
}
"""By the names in the table; sparsify is what the ratios are to."""

TUNED = TRAINERS | {"steerpipe (clip 0.01, no AuxK)": partial(steerpipe, clip=0.01, auxk_weight=0.0)}
"""What `--rates` trains: with them ours as dictionary-learning has it in short runs, clipped at every step and without AuxK."""

DISTRIBUTIONS = {"sparsify": "eai-sparsify", "dictionary-learning": "dictionary-learning", "SAELens": "sae-lens"}


def score(trained: Trained, held: Tensor, rows: int = 2048) -> dict[str, float]:
    """Return the FVU on held-out tokens (n, D), L0, and the share of features that never fire on them."""
    error, fired, active = 0.0, 0.0, 0
    with torch.no_grad():
        for x in held.split(rows):
            x_hat, codes = trained.run(x)
            error += float((x_hat - x).square().sum(dtype=torch.float64))
            on = codes != 0
            fired, active = fired + on.any(0), active + int(on.sum())
    total = float((held - held.mean(0)).square().sum(dtype=torch.float64))
    return {"fvu": error / total, "l0": active / len(held), "dead": float((fired == 0).float().mean())}


def shuffled(tokens: Tensor, batch: int, seed: int) -> Iterator[Tensor]:
    """Yield batches for ever: whole ones of the tokens (already in random order), in another order each pass."""
    whole, epoch = len(tokens) // batch, 0
    while True:
        for number in np.random.default_rng([seed, epoch]).permutation(whole):
            yield tokens[number * batch : (number + 1) * batch]
        epoch += 1


def fingerprint(folder: Path) -> str:
    """Return a digest of the trainer's own source files, so that a stored result is known to be theirs."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
