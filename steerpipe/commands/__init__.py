"""What `steer` can do: one line a command, in the order of its help. Free of heavy imports: the help page reads it."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """A command that takes the settings of a run.

    Attributes
    ----------
    name, help : as typed, and what is said of it
    study : the folder in steerpipe/studies/ that it runs; None: steerpipe/commands/NAME.py does it
    """

    name: str
    help: str
    study: str | None = None

    @property
    def module(self) -> str:
        """The name of its module or function: that of the command as Python writes it."""
        return self.name.replace("-", "_")


COMMANDS = (
    Command("run", "Run it all: extract, train the SAE, fit, evaluate, plot. What exists is reused."),
    Command("extract", "Run the model over a dataset and store its residual stream, cell embeddings and predicted expression."),
    Command(
        "train-sae",
        "Train a sparse autoencoder on the stored activations and score it, beside its baselines, on held-out cells.",
    ),
    Command("stability", "Match the features of trainings that differ in their seed alone, beside controls.", "stability"),
    Command(
        "annotate",
        "Say what the SAE's features mean: gene sets, GO terms, cell types, modules; beside neurons, PCA, ICA, a random SAE.",
    ),
    Command("feature", "Show one feature as a card: genes, terms, cell types, and what steering it alone does, beside nulls."),
    Command("features", "List the features by their annotation, or search labels, terms, genes and cell types."),
    Command(
        "browse",
        "Write features.html: every feature of the dictionary in one page, searched, sorted and opened without a network.",
    ),
    Command("fit", "Fit a sparse steering vector: the exact latent lasso, or the expression objective through the model."),
    Command("evaluate", "Score the fits on held-out cells, in both geometries, beside their controls."),
    Command("plot", "Draw the figures of an evaluation, each with the CSV behind it."),
    Command(
        "diagnose",
        "Ask of each recruited feature whether it is real: gene cap, noise floors, lambda path, half-sample refits, widths.",
        "recruitment",
    ),
    Command("transfer", "Fit on some cell types, score on the held-out others: does the recipe transfer?", "transfer"),
    Command("pareto", "Trade latent distance for expression: sweep the mixed objective's weight and draw the front.", "pareto"),
    Command(
        "circuits",
        "Switch features off at one layer, and see what it does at later layers and at the head: edges beside their nulls.",
        "circuits",
    ),
    Command(
        "regulation",
        "Ask whether TFs' tokens move their targets: against the way back, and against genes that are co-expressed as much.",
        "regulation",
    ),
    Command(
        "recipe",
        "From a phenotype, a gene programme to raise, to a sparse recipe, its terms, and genes to perturb; the loop closed.",
        "recipe",
    ),
    Command(
        "granularity",
        "For many targets: how far do one feature, a module, n features and all of them go? Step, or continuum?",
        "granularity",
    ),
    Command(
        "knockdown",
        "Fit real perturbations, and ask whether recipes find their DE genes and know their genes' programmes, beside nulls.",
        "knockdown",
    ),
    Command(
        "adapter",
        "Train networks from a state, or a perturbation's name, to a recipe: beside the exact lasso, means, ridge and nulls.",
        "adapter",
    ),
    Command(
        "atlas",
        "Ask whether dictionaries of several tissues serve each other: transfer, shared features, carried recipes, a verdict.",
        "atlas",
    ),
    Command(
        "check-approximation",
        "Measure what running cells on their expressed genes alone (model.tokens=expressed) does to streams and predictions.",
    ),
    Command("pretrain", "Train the embedded model `mini` from PBMC8K and score it on other data. About two hours on 2 cores."),
)
