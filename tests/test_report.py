import numpy as np
import pytest

from vit_jax import report
from vit_jax.classification_report import ClassificationReport


def classified(truths, guesses, margins):
    """A report of images whose classes 0, 1, 2 were guessed with the given margins."""
    result = ClassificationReport(("a", "b", "c"), "softmax_xent")
    for truth, guess, margin in zip(truths, guesses, margins):
        logits = np.zeros((1, 3), np.float32)
        logits[0, guess] = margin
        result.add({"image": np.zeros((1, 4, 4, 3)), "label": np.array([truth])}, logits)
    return result


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_the_most_confident_mistakes_come_first():
    result = classified([0, 0, 1, 2, 1], [0, 1, 2, 0, 1], [9.0, 1.0, 3.0, 2.0, 0.5])
    shown = [title.split() for title in titles(result.draw_predictions("test"))]
    assert [(words[0], words[-1]) for words in shown[:3]] == [("c:", "b"), ("a:", "c"), ("b:", "a")]
    shares = [int(words[1].rstrip("%")) for words in shown]
    assert shares[:3] == sorted(shares[:3], reverse=True)
    assert [words[0] for words in shown[3:]] == ["a:", "b:"]  # the right ones, as they came


def test_early_mistakes_give_way_to_more_confident_ones():
    count = 40
    result = classified([0] * count, [1] * count, np.linspace(0.1, 3, count))
    shown = titles(result.draw_predictions("val"))
    assert len(shown) == 32
    assert shown[0].startswith("b: 91%")


def test_curves_of_chosen_figures():
    lines = [
        {"step": 1, "split": "train", "loss": 2.0, "grad_norm": 1.0},
        {"step": 2, "split": "val", "loss": 1.0, "accuracy": 0.5, "examples": 3, "protocol": "x"},
    ]
    assert titles(report.draw_curves(lines)) == ["loss", "accuracy", "grad norm"]
    assert titles(report.draw_curves(lines, ["accuracy"])) == ["accuracy"]
    with pytest.raises(ValueError, match=r"nothing to draw of \['psnr'\]; there are: loss, grad"):
        report.draw_curves(lines, ["psnr"])
    with pytest.raises(ValueError, match="there are: none"):
        report.draw_curves([])


def boxes(figure):
    """(left, bottom, width, height) of the panels by their titles, as shares of the figure."""
    figure.canvas.draw()
    return {axes.get_title(): axes.get_position().bounds for axes in figure.axes}


def test_curves_are_in_rows_with_the_loss_and_the_best_figure_first_and_large():
    train = dict.fromkeys(["learning_rate", "grad_norm", "loss", "param_norm", "data_wait"], 1.0)
    val = {"dehazeformer/ssim": 0.9, "loss": 1.0, "input/psnr": 9.0, "psnr": 9.0, "auc": None}
    lines = [{"step": 1, "split": "train", **train}, {"step": 1, "split": "val", **val}]
    figure = report.draw_curves(lines, best="psnr")
    assert titles(figure) == [
        "loss", "psnr", "dehazeformer/ssim", "learning rate", "grad norm", "param norm",
        "data wait",
    ]  # fmt: skip
    assert figure.get_size_inches()[0] * 120 < 1400  # the dots per inch of `report.save`
    of = boxes(figure)
    for rows in (["loss", "psnr"], ["learning rate", "grad norm"], ["param norm", "data wait"]):
        assert of[rows[0]][1] == pytest.approx(of[rows[1]][1])
        assert of[rows[0]][0] + of[rows[0]][2] < of[rows[1]][0]
    assert of["loss"][1] > of["learning rate"][1] > of["param norm"][1]
    assert of["psnr"][2] * of["psnr"][3] > 1.5 * of["learning rate"][2] * of["learning rate"][3]


def test_a_lone_point_of_a_curve_has_a_marker():
    lines = [{"step": 1, "split": "train", "loss": 2.0}, {"step": 2, "split": "train", "loss": 1.0}]
    (one,) = report.draw_curves(lines[:1]).axes[0].lines
    assert (one.get_marker(), one.get_linestyle()) == ("o", "None")
    (two,) = report.draw_curves(lines).axes[0].lines
    assert (two.get_marker(), two.get_linestyle()) == ("None", "-")


def test_the_share_of_waiting_begins_at_0_where_there_was_none():
    lines = [{"step": step, "split": "train", "data_wait": 0.0} for step in (1, 2)]
    low, high = report.draw_curves(lines).axes[0].get_ylim()
    assert low == 0 < high


def test_images_of_several_shapes():
    images = [np.zeros((4, 8, 3)), np.zeros((8, 4, 3), np.uint8), np.zeros((4, 4, 3))]
    figure = report.draw_images(images, ["one", "two", "three"], "all", columns=2)
    assert titles(figure) == ["one", "two", "three"]
    assert len(figure.axes) == 4
    assert not any(axes.axison for axes in figure.axes)
