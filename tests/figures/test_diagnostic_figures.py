import dataclasses

import matplotlib as mpl
import numpy as np
import pytest

from losspath import (
    Activations,
    Confusion,
    Dynamics,
    Saliency,
    plot_activations,
    plot_confusion,
    plot_dynamics,
    plot_feature_maps,
    plot_filters,
    plot_saliency,
    plot_samples,
)
from losspath.errors import ArgumentError


def texts(figure):
    return [text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_text()]


def shown(axes):
    return [np.asarray(image.get_array()) for image in axes.images]


def test_confusion_is_drawn_absolute_and_normalised():
    counts = np.array([[8, 2, 0], [1, 9, 0], [0, 5, 5]])
    figure = plot_confusion(Confusion(counts, ("cat", "dog", "cow")), title="step 9")
    (absolute,), (normalised,) = (shown(axes) for axes in figure.axes[:2])
    np.testing.assert_array_equal(absolute, counts)
    np.testing.assert_allclose(normalised, counts / 10)
    words = texts(figure)
    assert {"8", ".80", "cat", "true class", "prediction", "step 9"} <= set(words)
    assert "0" not in {text.get_text() for text in figure.axes[0].texts}  # empty cells stay empty
    assert any("30 samples, 73.33% of them right" in text for text in words)


def test_many_classes_have_no_numbers():
    confusion = Confusion(np.eye(50, dtype=np.int64), tuple(map(str, range(50))))
    figure = plot_confusion(confusion)
    assert not figure.axes[0].texts


def make_activations(layers=4, states=3):
    edges = np.tile(np.linspace(0, 1, 6), (layers, 1))
    counts = np.arange(layers * states * 5).reshape(layers, states, 5) + 1
    zeros = np.full((layers, states), 0.25)
    dead = np.zeros((layers, states))
    dead[0] = 0.5
    names = tuple(f"relu{i}" for i in range(layers))
    return Activations(names, np.arange(states) * 10, edges, counts, zeros, dead)


@pytest.mark.parametrize(("layers", "states"), [(1, 1), (2, 3), (4, 3), (7, 2)])
def test_activations_have_a_panel_for_each_layer(layers, states):
    found = make_activations(layers, states)
    figure = plot_activations(found, title="a run")
    panels = figure.axes[:layers]
    assert len(figure.axes) == layers + 1  # and a colour bar
    for layer, axes in enumerate(panels):
        (mesh,) = axes.collections
        counts = found.counts[layer]
        np.testing.assert_allclose(mesh.get_array(), (counts / counts.sum(axis=1, keepdims=True)).T)
    words = texts(figure)
    assert "relu0: 25% zeros, 50% of units dead" in words
    assert layers == 1 or "relu1: 25% zeros" in words
    assert {"optimiser step", "output", "share of values"} <= set(words)


def test_filters_are_on_one_symmetric_scale_a_layer():
    layers = {"conv1": np.linspace(-1, 3, 18).reshape(2, 1, 3, 3), "conv2": np.ones((40, 2, 3, 3))}
    figure = plot_filters(layers, title="filters")
    drawn = [axes for axes in figure.axes if axes.images]
    assert len(drawn) == 2 + 32
    assert drawn[0].images[0].get_clim() == (-3, 3)
    assert drawn[2].images[0].get_clim() == (-1, 1)
    np.testing.assert_array_equal(shown(drawn[1])[0], layers["conv1"][1, 0])
    assert {"conv1", "conv2\n32 of 40"} <= set(texts(figure))
    assert texts(figure).count("conv2\n32 of 40") == 1


def test_feature_maps_begin_with_the_input():
    maps = {"conv1": np.arange(32.0).reshape(2, 4, 4)}
    image = np.ones((1, 6, 6))
    figure = plot_feature_maps(maps, image)
    drawn = [axes for axes in figure.axes if axes.images]
    assert len(drawn) == 3
    np.testing.assert_array_equal(shown(drawn[2])[0], maps["conv1"][1])
    assert {"input", "conv1"} <= set(texts(figure))


@pytest.mark.parametrize("draw", [plot_filters, plot_feature_maps])
def test_a_network_without_convolutions_has_nothing_to_draw(draw):
    with pytest.raises(ArgumentError, match="no convolutions"):
        draw({})


def make_saliency(channels=1):
    maps = {
        name: np.full((2, 5, 5), value)
        for name, value in (("gradient", 1.0), ("integrated gradients", 2.0), ("occlusion", 3.0))
    }
    inputs = np.random.default_rng(0).standard_normal((2, channels, 5, 5))
    return Saliency(inputs, maps, np.array([0, 1]), np.array([0, 0]))


@pytest.mark.parametrize("channels", [1, 3])
def test_saliency_is_drawn_beside_the_input(channels):
    figure = plot_saliency(make_saliency(channels), labels=["cat", "dog"], title="step 9")
    assert len(figure.axes) == 8
    np.testing.assert_array_equal(shown(figure.axes[3])[0], np.full((5, 5), 3.0))
    assert {"input", "gradient", "occlusion", "cat", "dog\nas cat"} <= set(texts(figure))


def test_an_output_that_is_no_class_is_told_as_a_number():
    found = dataclasses.replace(
        make_saliency(), predictions=None, scores=np.array([2.3456, -1.0]), targets=np.array([1, 0])
    )
    words = texts(plot_saliency(found, labels=["cat", "dog"]))
    assert {"1\noutput 2.35", "0\noutput -1"} <= set(words)
    assert not any("as" in word.split() for word in words[:-1])
    assert "network's output depends on" in " ".join(" ".join(words).split())
    found = dataclasses.replace(found, targets=None)
    assert {"output 2.35", "output -1"} <= set(texts(plot_saliency(found)))


def test_a_target_that_is_to_be_ignored_is_no_class():
    found = dataclasses.replace(make_saliency(), targets=np.array([-100, 1]))
    words = texts(plot_saliency(found, labels=["cat", "dog"]))
    assert {"(ignored)\nas cat", "dog\nas cat"} <= set(words)
    drawn = plot_samples(np.zeros((3, 1, 2, 2)), np.array([-1, 0, 1]), ["cat", "dog"])
    assert {"(ignored)", "cat", "dog"} <= set(texts(drawn))


def test_a_confusion_of_nothing_is_empty():
    figure = plot_confusion(Confusion(np.zeros((2, 2), np.int64), ("a", "b")))
    assert any("No samples." in text for text in texts(figure))


def test_samples_are_drawn_by_class():
    images = np.arange(30.0)[:, None, None, None] * np.ones((1, 1, 2, 2))
    targets = np.arange(30) % 3
    figure = plot_samples(images, targets, ["a", "b", "c"])
    drawn = [axes for axes in figure.axes if axes.images]
    assert len(drawn) == 30
    first = [shown(axes)[0][0, 0] * 29 for axes in drawn[:3]]
    np.testing.assert_allclose(first, [0, 3, 6])
    assert {"a", "b", "c"} <= set(texts(figure))


def test_what_is_no_image_is_refused():
    with pytest.raises(ArgumentError, match="images"):
        plot_samples(np.zeros((4, 7)), np.zeros(4))
    found = Saliency(np.zeros((2, 7)), {}, np.zeros(2, int), np.zeros(2, int))
    with pytest.raises(ArgumentError, match="images"):
        plot_saliency(found)


def make_dynamics(sharpness=2.0):
    steps = np.array([0, 25, 50, 75, 100])
    loss, gradient = np.array([2.0, 1.5, 1.0, 0.7, 0.5]), np.array([1.0, 0.8, 0.5, 0.3, 0.1])
    sharp = np.full(5, sharpness)
    return Dynamics(
        steps, steps, loss, gradient, sharp, np.full(99, 0.5), np.arange(101), {"samples": 1000}
    )


def test_dynamics_are_drawn_over_training():
    found = make_dynamics()
    figure = plot_dynamics(found, rate=0.1, title="a run")
    loss, gradient, sharpness, cosine = figure.axes
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), found.loss)
    np.testing.assert_array_equal(gradient.lines[0].get_ydata(), found.gradient_norm)
    np.testing.assert_array_equal(sharpness.lines[0].get_ydata(), found.sharpness)
    assert sharpness.lines[1].get_ydata()[0] == pytest.approx(20.0)
    np.testing.assert_allclose(cosine.lines[1].get_ydata(), 0.5)
    words = texts(figure)
    assert "2/η, η = 0.1" in words
    caption = " ".join(" ".join(words).split())
    assert "Verdict: smooth" in caption
    assert "1,000 samples" in caption


def test_dynamics_of_several_seeds_are_a_mean_and_a_band():
    runs = [make_dynamics(sharpness) for sharpness in (1.0, 3.0)]
    figure = plot_dynamics(runs)
    sharpness = figure.axes[2]
    np.testing.assert_array_equal(sharpness.lines[0].get_ydata(), [2.0] * 5)
    (band,) = sharpness.collections
    low, high = band.get_datalim(sharpness.transData).intervaly
    assert (low, high) == (1.0, 3.0)
    assert "Verdicts: smooth, smooth" in " ".join(" ".join(texts(figure)).split())
    other = dataclasses.replace(runs[0], steps=runs[0].steps + 1)
    for wrong in ([], [runs[0], other]):
        with pytest.raises(ArgumentError, match="at the same steps"):
            plot_dynamics(wrong)


def test_unknown_sharpness_is_said():
    caption = " ".join(" ".join(texts(plot_dynamics(make_dynamics(np.nan)))).split())
    assert "The sharpness of 5 states was not found" in caption
