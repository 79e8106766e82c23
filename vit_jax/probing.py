"""What features are worth: a linear probe on few images per class, and nearest neighbours.

Sources: the few-shot evaluation of big_vision, Beyer et al. (2022), as Dosovitskiy et al., "An
Image is Worth 16x16 Words" (ICLR 2021), section 4.1, describes it: regularised least squares. The
neighbours are those of Caron et al., "Emerging Properties in Self-Supervised Vision Transformers"
(DINO, ICCV 2021), appendix F.1, after Wu et al. (CVPR 2018).
"""

from collections.abc import Callable

import numpy as np

STRENGTH = 2.0**10  # of the regularisation, that of the published figures
SEEDS = (0, 1, 2)  # with which images are drawn, as for the published figures

_CONSTANT = 100.0  # that features get besides; the larger it is, the freer is the bias
_EPSILON = 1e-5  # in the deviation that features are divided by
_TEMPERATURE = 0.07  # of neighbours' votes
_ROWS = 1024  # images that are classified at a time
_MOST_COSINES = 2**24  # that are in memory at a time

Score = Callable[[np.ndarray], np.ndarray]  # from (m, d) features to (m, classes)


def draw_shots(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Draws images of each class: (shots * classes,) rows, those of the first class first.

    Images that are drawn are drawn for more shots with the same seed, too.

    Args:
        labels: (n,) of the images; every class has as many at least.
        shots: images of each class.
        seed: of the order in which each class's are taken.
    """
    random = np.random.default_rng(seed)
    classes = range(labels.max() + 1)
    rows = [random.permutation(np.flatnonzero(labels == label))[:shots] for label in classes]
    return np.concatenate(rows)


def fit_linear(
    features: np.ndarray, labels: np.ndarray, classes: int, strength: float = STRENGTH
) -> Score:
    """Fits a linear classifier by least squares; targets are 1 for the class and -1 for others.

    Features are first whitened by the mean and the deviation that these have. All is computed in
    float64, where big_vision's float32 leaves some 2e-4 of the scores' deviation to chance.

    Args:
        features: (n, d) float32.
        labels: (n,) of 0, ..., classes - 1.
        classes: how many there are.
        strength: of the squared weights, and of the squared bias divided by 100^2.

    Returns:
        The function from features (m, d) to scores (m, classes) float64.
    """
    known = features.astype(np.float64)
    mean, deviation = known.mean(axis=0), known.std(axis=0) + _EPSILON

    def prepare(values: np.ndarray) -> np.ndarray:
        whitened = (values.astype(np.float64) - mean) / deviation
        return np.pad(whitened, ((0, 0), (0, 1)), constant_values=_CONSTANT)

    x = prepare(features)
    targets = np.where(labels[:, None] == np.arange(classes), 1.0, -1.0)
    n, d = x.shape
    if n >= d:
        weights = np.linalg.solve(x.T @ x + strength * np.eye(d), x.T @ targets)
    else:  # the same by the smaller matrix
        weights = x.T @ np.linalg.solve(x @ x.T + strength * np.eye(n), targets)
    return lambda values: prepare(values) @ weights


def fit_neighbours(
    features: np.ndarray, labels: np.ndarray, classes: int, neighbours: int
) -> Score:
    """Makes the classifier by which the nearest images vote, each with exp(cosine / 0.07).

    Args:
        features: (n, d) float32.
        labels: (n,) of 0, ..., classes - 1.
        classes: how many there are.
        neighbours: that vote, at most n.

    Returns:
        The function from features (m, d) to the classes' shares of the votes, (m, classes) float64.
    """
    known = _unit_length(features)
    rows = max(_MOST_COSINES // len(known), 1)

    def vote(values: np.ndarray) -> np.ndarray:
        cosines = _unit_length(values) @ known.T
        nearest = np.argpartition(-cosines, neighbours - 1, axis=1)[:, :neighbours]
        near = np.take_along_axis(cosines, nearest, axis=1).astype(np.float64)
        votes = np.exp((near - 1) / _TEMPERATURE)
        shares = np.zeros((len(values), classes))
        np.add.at(shares, (np.arange(len(values))[:, None], labels[nearest]), votes)
        return shares / votes.sum(axis=1, keepdims=True)

    def score(values: np.ndarray) -> np.ndarray:
        parts = [vote(values[i : i + rows]) for i in range(0, len(values), rows)]
        return np.concatenate(parts)

    return score


def _unit_length(features: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(lengths, 1e-12)


def measure(score: Score, features: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The accuracy of a classifier, and how often the label is among its five likeliest classes.

    Of classes with equal scores the one with the smaller number comes first.

    Args:
        score: the classifier.
        features: (m, d) of images that it has not seen.
        labels: (m,) of them.

    Returns:
        Both in [0, 1].
    """
    ranks = [
        _ranks(score(features[i : i + _ROWS]), labels[i : i + _ROWS])
        for i in range(0, len(features), _ROWS)
    ]
    rank = np.concatenate(ranks)
    return float(np.mean(rank < 1)), float(np.mean(rank < 5))


def _ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(m,) how many classes come before that of the label."""
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    is_tied_before = (scores == own) & (np.arange(scores.shape[1]) < labels[:, None])
    return np.sum((scores > own) | is_tied_before, axis=1)
