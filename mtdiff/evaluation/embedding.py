"""Recorded and written transitions in one picture: t-SNE, by scikit-learn.

van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008.
"""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mtdiff.errors import DataError, MTDiffError, at_least
from mtdiff.evaluation import plots
from mtdiff.evaluation.closeness import Transitions, scale_of, together, transitions_of

# What the stand-ins of `plots` become where no page decides: its colours by day.
_COLOURS = {
    plots.INK: "#1d2126",
    plots.FAINT: "#626a73",
    plots.LINE: "#dcdfe3",
    plots.FIRST: "#1f6f8b",
    plots.SECOND: "#d98a3d",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedding:
    """Points of a plane; neighbours in it were neighbours among the transitions, distances mean little.

    Attributes:
        real: (M, 2).
        synthetic: (N, 2).
    """

    real: NDArray[np.float64]
    synthetic: NDArray[np.float64]


def embed(synthetic: Transitions, real: Transitions, *, seed: int = 0, samples: int = 500) -> Embedding:
    """Place transitions (s, a, r, s') of one task in a plane, about 5 s for 500 of each.

    Args:
        synthetic: state (N, O), action (N, A), reward (N,), next_state (N, O).
        real: likewise; every number is divided by its standard deviation in these, at least 0.01.
        seed: of the choice of rows and of t-SNE.
        samples: at most so many of each, at least 10.

    Raises:
        DataError: an array is missing, empty, of another width than the real data's, or not finite.
        MTDiffError: scikit-learn is not installed.
        ValueError: fewer than 10 samples.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise MTDiffError(
            f"t-SNE needs scikit-learn, which is not installed ({error.name}): pip install 'mtdiff[tsne]'."
        ) from error
    at_least(10, samples=samples)
    rows = [together(transitions_of(data, name=name)) for name, data in (("real", real), ("synthetic", synthetic))]
    if rows[0].shape[1] != rows[1].shape[1]:
        raise DataError(f"synthetic: should have {rows[0].shape[1]} numbers a row, as real, got {rows[1].shape[1]}.")
    loc, scale = scale_of(rows[0])
    generator = np.random.default_rng(seed)
    some = [values[generator.permutation(len(values))[:samples]] for values in rows]
    points = (np.concatenate(some) - loc) / scale
    if len(points) < 4:
        raise DataError(f"t-SNE: should have at least 4 transitions in all, got {len(points)}.")
    perplexity = min(30.0, (len(points) - 1) / 3)
    plane = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(points).astype(np.float64)
    return Embedding(real=plane[: len(some[0])], synthetic=plane[len(some[0]) :])


def embedding_figure(embedding: Embedding, *, title: str = "") -> Figure:
    """Return the picture, for `savefig`: real points below, synthetic ones above."""
    style = {
        key: _COLOURS.get(value, value) if isinstance(value, str) else value for key, value in plots._STYLE.items()
    }
    with matplotlib.rc_context(style):
        return _draw(embedding, first=_COLOURS[plots.FIRST], second=_COLOURS[plots.SECOND], title=title)


def embedding_svg(embedding: Embedding, *, title: str = "") -> str:
    """Return the picture as an <svg> element whose colours follow the report's page."""
    with matplotlib.rc_context({**plots._STYLE, "svg.hashsalt": "embedding"}):
        figure = _draw(embedding, first=plots.FIRST, second=plots.SECOND, title=title)
        return plots._svg(figure, "Recorded and synthetic transitions, by t-SNE")


def _draw(embedding: Embedding, *, first: str, second: str, title: str) -> Figure:
    figure, axes = plots._figure(4.7, 4.2)
    points = (("real", embedding.real, first, 0.55), ("synthetic", embedding.synthetic, second, 0.7))
    for label, plane, colour, alpha in points:
        axes.scatter(plane[:, 0], plane[:, 1], s=9, color=colour, alpha=alpha, linewidths=0, label=label)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_title(title, loc="left", fontsize="medium")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, markerscale=2)
    return figure
