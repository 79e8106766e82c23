"""Figures of classifiers beside scikit-learn's, and their table of the classes."""

import csv

import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from vit_jax import classification
from vit_jax.classification_report import ClassificationReport, MultiLabelReport
from vit_jax.tasks import classify

LOSSES = ("softmax_xent", "sigmoid_xent")
COUNT = 120


def one_label(classes, seed=0):
    """Labels (b,) and logits, with ties."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, COUNT).astype(np.int32)
    logits = random.normal(size=(COUNT, classes)).astype(np.float32) + 1.5 * np.eye(classes)[labels]
    logits[:20] = logits[0]
    return labels, logits.astype(np.float32)


def several_labels(classes, seed=0):
    """Labels (b, classes) and logits, with ties; some images are of no class."""
    random = np.random.default_rng(seed)
    labels = (random.uniform(size=(COUNT, classes)) < 0.3).astype(np.float32)
    labels[5] = 0
    logits = random.normal(size=(COUNT, classes)) + 2 * labels - 1
    logits[:20, 0] = logits[0, 0]
    return labels, logits.astype(np.float32)


def figure(name, loss, labels, logits):
    metric = classify.get_metric(name, loss)
    parts = [
        metric.each(jnp.asarray(logits[i : i + 50]), {"label": jnp.asarray(labels[i : i + 50])})
        for i in range(0, len(labels), 50)
    ]
    return metric.finish(np.concatenate(parts))


def probabilities(logits, loss):
    return np.asarray(classification.probabilities(jnp.asarray(logits), loss))


@pytest.mark.filterwarnings("ignore:The y_prob values do not sum to one")  # of sigmoids
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("loss", LOSSES)
def test_figures_of_one_label_are_scikit_learns(classes, loss):
    labels, logits = one_label(classes)
    p = probabilities(logits, loss)
    expected = {
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(labels, logits.argmax(-1)),
        "mean_average_precision": sklearn.metrics.average_precision_score(
            np.eye(classes)[labels], p, average="macro"
        ),
        "log_loss": sklearn.metrics.log_loss(labels, p),
    }
    found = {name: figure(name, loss, labels, logits) for name in expected}
    assert found == pytest.approx(expected, rel=1e-6)


def test_log_loss_of_what_is_held_impossible_is_cut_as_scikit_learns():
    labels, logits = np.array([0, 1]), np.array([[-200, 0], [-200, 0]], np.float32)
    expected = sklearn.metrics.log_loss(labels, probabilities(logits, "softmax_xent"))
    assert expected == pytest.approx(7.97, abs=0.01)
    assert figure("log_loss", "softmax_xent", labels, logits) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_calibration_error_is_as_defined(loss):
    labels, logits = one_label(5)
    p = probabilities(logits, loss).astype(np.float64)
    expected = 0.0
    for m in range(15):
        inside = (p.max(-1) > m / 15) & (p.max(-1) <= (m + 1) / 15)
        if inside.any():
            right = (p.argmax(-1) == labels)[inside].mean()
            expected += inside.sum() / COUNT * abs(right - p.max(-1)[inside].mean())
    assert 0.01 < expected < 0.5
    found = figure("expected_calibration_error", loss, labels, logits)
    assert found == pytest.approx(expected, rel=1e-9)


def test_calibration_error_by_hand():
    """What is said with 0.8, the end of a bin, is right twice; with 0.82, once, it is wrong."""
    scores = np.array([[0, 0.8, 0.2], [1, 0.2, 0.8], [1, 0.82, 0.18]])
    found = classification.expected_calibration_error(scores)
    assert found == pytest.approx(2 / 3 * (1 - 0.8) + 1 / 3 * 0.82)


@pytest.mark.parametrize("classes", [1, 4])
def test_figures_of_several_labels_are_scikit_learns(classes):
    labels, logits = several_labels(classes)
    p = probabilities(logits, "sigmoid_xent")
    guesses = (p > 0.5).astype(int)
    of_one = zip(labels.T, p.T)
    expected = {
        "mean_average_precision": sklearn.metrics.average_precision_score(labels, p),
        "auc": sklearn.metrics.roc_auc_score(labels, p),
        "log_loss": np.mean([sklearn.metrics.log_loss(truth, each) for truth, each in of_one]),
    }
    average = "macro" if classes > 1 else "binary"
    values = sklearn.metrics.precision_recall_fscore_support(labels, guesses, average=average)
    expected |= dict(zip(("precision", "recall", "f1"), values))
    found = {name: figure(name, "sigmoid_xent", labels, logits) for name in expected}
    assert found == pytest.approx(expected, rel=1e-6)


def test_classes_that_do_not_occur():
    labels, logits = several_labels(4)
    labels[:, 1:3] = 0
    logits[:, 1] = -1  # neither there nor guessed
    logits[3, 2] = 1  # guessed, and never there
    labels[:, 3], logits[:, 3] = 1, logits[:, 3]  # always there
    p, guesses = probabilities(logits, "sigmoid_xent"), logits > 0
    known = [0, 2, 3]
    expected = sklearn.metrics.precision_recall_fscore_support(
        labels[:, known], guesses[:, known], average="macro", zero_division=0
    )
    found = [figure(k, "sigmoid_xent", labels, logits) for k in ("precision", "recall", "f1")]
    np.testing.assert_allclose(found, expected[:3], rtol=1e-12)
    assert figure("auc", "sigmoid_xent", labels, logits) == pytest.approx(
        sklearn.metrics.roc_auc_score(labels[:, 0], p[:, 0])
    )
    assert figure("mean_average_precision", "sigmoid_xent", labels, logits) == pytest.approx(
        sklearn.metrics.average_precision_score(labels[:, [0, 3]], p[:, [0, 3]])
    )
    nothing = np.zeros_like(labels)
    assert np.isnan(figure("mean_average_precision", "sigmoid_xent", nothing, logits))
    one, logits = np.array([0, 0, 1]), np.eye(4)[[0, 3, 1]]
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = sklearn.metrics.balanced_accuracy_score(one, [0, 3, 1])
    assert figure("balanced_accuracy", "softmax_xent", one, logits) == expected == 0.75


def test_a_probability_that_is_no_number_is_no_figure():
    labels, logits = one_label(3)
    logits[7] = np.nan
    for name in ("auc", "mean_average_precision", "log_loss", "expected_calibration_error"):
        assert np.isnan(figure(name, "softmax_xent", labels, logits)), name


def test_figures_of_one_array_share_it():
    each = [classify.get_metric(k, "sigmoid_xent").each for k in ("auc", "log_loss")]
    assert each[0] is each[1]
    assert each[0] is not classify.get_metric("auc", "softmax_xent").each


# The report.


def written(report, labels, logits, folder):
    images = np.zeros((len(labels), 4, 4, 3))
    for i in range(0, len(labels), 50):
        rows = slice(i, i + 50)
        report.add({"image": images[rows], "label": labels[rows]}, logits[rows])
    report.gather()
    report.write(folder, "test")
    return list(csv.DictReader((folder / "classes.csv").read_text().splitlines()))


@pytest.mark.parametrize("several", [False, True])
def test_the_table_of_the_classes(several, tmp_path):
    loss = "sigmoid_xent" if several else "softmax_xent"
    labels, logits = several_labels(4) if several else one_label(4)
    names = ("a", "b", "c, d", "never")
    if several:
        labels[:, 3], logits[:, 3] = 0, -1
    else:
        labels, logits[:, 3] = labels % 3, -9
    kind = MultiLabelReport if several else ClassificationReport
    rows = written(kind(names, loss), labels, logits, tmp_path)
    assert [row["class"] for row in rows] == list(names)
    own = labels if several else np.eye(4)[labels]
    guessed = logits > 0 if several else np.eye(4)[logits.argmax(-1)]
    for i, row in enumerate(rows):
        counts = [own[:, i].sum(), guessed[:, i].sum(), (own * guessed)[:, i].sum()]
        assert [int(row[k]) for k in ("examples", "predicted", "right")] == counts
    figures = {"auc": "auc", "average_precision": "mean_average_precision"}
    for column in ("precision", "recall", "f1"):
        figures[column] = column
    for column, name in figures.items():
        assert rows[3][column] == ""
        values = [float(row[column]) for row in rows[:3]]
        assert np.mean(values) == pytest.approx(figure(name, loss, labels, logits), abs=1e-6)
    picture = "average_precision.png" if several else "confusion.png"
    assert (tmp_path / picture).stat().st_size > 1000


def test_the_table_does_without_areas_where_they_would_not_fit(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("vit_jax.classification_report._MOST_SCORES", 300)
    labels, logits = one_label(4)
    rows = written(ClassificationReport("abcd", "softmax_xent"), labels, logits, tmp_path)
    assert list(rows[0]) == ["class", "examples", "predicted", "right", "precision", "recall", "f1"]
    assert "classes.csv has no auc and no average_precision" in caplog.text


def test_what_stands_above_an_image_of_several_classes():
    labels = np.array([[1, 1, 0, 0, 0], [0, 1, 1, 1, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    logits = np.array([[9, -1, 3, -9, -9], [-2, -2, -3, -1, -2], [-9, 9, -9, -9, -9], [-9.0] * 5])
    report = MultiLabelReport("abcde", "sigmoid_xent")
    report.add({"image": np.zeros((4, 4, 4, 3)), "label": labels}, logits)
    shown = report.draw_predictions("val")
    titles = [axes.get_title() for axes in shown.axes]
    assert titles[:4] == [
        "+ c: 95%\n- b: 27%\na: 100%",
        "- d: 27%\n- b: 12%\nand 2 more",
        "b: 100%",
        "none",
    ]
    assert shown.get_suptitle().startswith("val: 2 of 4 wrong, the most confident mistakes first")
