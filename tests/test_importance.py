"""Importance sampling: both proposals against a marginal in closed form."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp
from test_models import linear_gaussian, small_model

from aef_tfp import flows
from aef_tfp.inference.importance import gather_weights
from aef_tfp.inference.laplace import forward_jacobian, laplace_approximation
from aef_tfp.metrics import likelihood, tune_proposal_scale
from aef_tfp.models import VAE, ExpandedAEF
from aef_tfp.networks import batching, dense_decoder


@pytest.fixture(scope="module")
def linear():
    """d = 8, N = 16: (AEF, VAE of the same parts, marginal, the AEF's best scale)."""
    keras.utils.set_random_seed(0)
    aef, marginal, scale = linear_gaussian(8, 16)
    vae = VAE.from_aef(aef)
    # No flow in the posterior: epsilon is u.
    vae.core_flow.flow.flow.flows[0].set_weights([np.zeros(8), np.zeros(8)])
    return aef, vae, marginal, scale


def test_both_proposals_of_both_models_meet_the_closed_form(linear):
    aef, vae, marginal, scale = linear
    x = marginal.rvs(6, random_state=0)
    expected = marginal.logpdf(x)
    for model, arguments in (
        (aef, {"proposal_scale": scale}),
        (vae, {}),
        (aef, {"proposal": "laplace", "proposal_scale": 1.1}),
        (vae, {"proposal": "laplace", "proposal_scale": 1.1}),
    ):
        estimates = np.stack(
            [
                model.marginal_log_prob(x, 2000, seed=seed, **arguments)
                for seed in range(8)
            ]
        )
        pooled = logsumexp(estimates, axis=0) - np.log(8)
        error = estimates.std(0, ddof=1) / np.sqrt(8)
        np.testing.assert_array_less(np.abs(pooled - expected), 3 * error + 1e-6)
        # 0.01 nats per dimension.
        np.testing.assert_array_less(np.abs(pooled - expected), 0.16)
        # ... and informative.
        assert error.max() < 0.1


def test_the_laplace_proposal_of_a_gaussian_posterior_is_exact(linear):
    # All weights are equal: one sample is enough, and all samples are effective.
    aef, vae, marginal, _ = linear
    x = marginal.rvs(6, random_state=0)
    one = aef.marginal_log_prob(x, 1, proposal="laplace", seed=0)
    np.testing.assert_allclose(one, marginal.logpdf(x), rtol=1e-5)
    estimate = vae.importance_estimate(x, 50, proposal="laplace", seed=0)
    np.testing.assert_allclose(estimate.effective_sample_size, 50, rtol=1e-4)


@pytest.mark.parametrize("proposal", ["encoder", "laplace"])
def test_the_bound_tightens_with_the_number_of_samples(linear, proposal):
    aef, _, marginal, scale = linear
    x = marginal.rvs(200, random_state=0)
    scale = scale if proposal == "encoder" else 1.4
    means = [
        aef.marginal_log_prob(x, k, proposal=proposal, proposal_scale=scale, seed=1)
        .numpy()
        .mean()
        for k in (1, 8, 64, 512)
    ]
    assert means == sorted(means)
    # Without - log K it would rise by log 64 = 4.2 nats from 8 to 512.
    assert means[-1] - means[1] < 2.0


def test_a_wrong_scale_is_a_looser_bound_never_a_higher_one(linear):
    aef, _, marginal, scale = linear
    x = marginal.rvs(200, random_state=0)
    best, narrow, wide = (
        aef.marginal_log_prob(x, 100, proposal_scale=scale * factor, seed=1)
        .numpy()
        .mean()
        for factor in (1.0, 0.3, 3.0)
    )
    exact = marginal.logpdf(x).mean()
    assert max(narrow, wide) < best < exact + 0.05


@pytest.mark.parametrize("proposal", ["encoder", "laplace"])
def test_memory_is_bounded_and_the_bound_changes_nothing(linear, proposal, monkeypatch):
    aef, _, marginal, _ = linear
    x = marginal.rvs(3, random_state=0)
    whole_estimate = aef.importance_estimate(x, 10, proposal=proposal, seed=1)
    # Seven latents at once: two samples of three events; for Laplace, one event.
    monkeypatch.setattr(batching, "PASS_ENTRIES", 7 * 16)
    copy = ExpandedAEF.from_config(aef.get_config())
    copy.set_weights(aef.get_weights())
    parts = copy.importance_estimate(x, 10, proposal=proposal, seed=1)
    if proposal == "encoder":
        np.testing.assert_allclose(parts.log_prob, whole_estimate.log_prob, rtol=1e-12)
        np.testing.assert_allclose(
            parts.effective_sample_size,
            whole_estimate.effective_sample_size,
            rtol=1e-9,
        )
    else:
        # Exact whatever the noise.
        np.testing.assert_allclose(parts.log_prob, whole_estimate.log_prob, rtol=1e-6)


def test_events_are_encoded_once_and_decoded_in_passes(linear, monkeypatch):
    aef, _, marginal, _ = linear
    monkeypatch.setattr(batching, "PASS_ENTRIES", 7 * 16)
    sizes = {"encoder": [], "decoder": []}
    for name, seen in sizes.items():
        network = getattr(aef, name).network

        def recorded(x, call=network.call, seen=seen, **kwargs):
            seen.append(x.shape[0])
            return call(x, **kwargs)

        monkeypatch.setattr(network, "call", recorded)
    tf.config.run_functions_eagerly(True)
    try:
        aef.importance_estimate(marginal.rvs(3, random_state=0), 10, seed=1)
    finally:
        tf.config.run_functions_eagerly(False)
    assert sizes["encoder"] == [3]
    assert set(sizes["decoder"]) == {6}


def test_repeats_are_pooled_inside_the_logarithm(linear):
    aef, _, marginal, scale = linear
    x = marginal.rvs(4, random_state=0)
    estimate = aef.importance_estimate(
        x, 16, num_repeats=5, proposal_scale=scale, seed=1
    )
    assert estimate.num_repeats == 5
    log_sums = estimate.log_sums.numpy()
    assert log_sums.shape == (5, 4)
    assert np.ptp(log_sums, axis=0).min() > 1e-3  # other noise in each
    pooled = logsumexp(log_sums, axis=0) - np.log(5 * 16)
    np.testing.assert_allclose(estimate.log_prob, pooled, rtol=1e-12)
    outside = estimate.paper_log_prob_without_log_k.numpy()
    np.testing.assert_allclose(outside, log_sums.mean(0), rtol=1e-12)
    assert ((outside - np.log(16)) < pooled).all()


def test_effective_sample_size_counts_equal_weights(rng):
    def size(log_weights):
        count = len(log_weights)
        zero = tf.zeros([1], log_weights.dtype)
        return gather_weights(
            lambda places: tf.gather(log_weights, places)[:, None],
            [np.arange(count)],
            count,
            4,
            zero,
        ).effective_sample_size.numpy()[0]

    np.testing.assert_allclose(size(np.full(7, -900.0)), 7.0)
    np.testing.assert_allclose(size(np.array([0.0, -900.0, -900.0])), 1.0)
    weights = rng.uniform(size=9)
    np.testing.assert_allclose(
        size(np.log(weights)), weights.sum() ** 2 / (weights**2).sum()
    )
    # Of an event that no sample gives a density, no weight counts.
    assert size(np.full(5, -np.inf)) == 0.0
    assert np.isnan(size(np.array([np.nan, 0.0])))
    # In single precision, nats of so many have a digit after the point.
    assert size(np.full(128, -123456.7, np.float32)) == 128.0
    assert size(np.float32([-123456.7, -900.0])) == 1.0


def test_tuning_finds_the_scale_and_saves_it_with_the_model(linear, tmp_path):
    aef, _, marginal, scale = linear
    model = ExpandedAEF.from_config(aef.get_config())
    model.set_weights(aef.get_weights())
    assert model.proposal_scale() == 0.05
    x = marginal.rvs(64, random_state=0)
    steps = []
    found = tune_proposal_scale(model, x, num_samples=64, progress=steps.append)
    # The encoder's scale is a little wide, so the best one is a little smaller.
    assert 0.6 * scale < found < 1.1 * scale
    assert steps == [*range(1, len(steps)), 17]
    assert model.proposal_scale() == found

    def bound(value):
        return model.marginal_log_prob(x, 64, proposal_scale=value, seed=0)

    for other in (0.7 * found, 1.4 * found):
        assert np.mean(bound(found)) > np.mean(bound(other))
    np.testing.assert_array_equal(
        model.marginal_log_prob(x, 64, seed=5),
        model.marginal_log_prob(x, 64, proposal_scale=found, seed=5),
    )
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    assert copy.proposal_scales == {"encoder": found}
    assert VAE.from_aef(copy).proposal_scale() == 1.0


@pytest.mark.parametrize("best", [0.02, np.nan])
def test_a_bar_ends_where_tuning_does(best):
    class Parabola:
        def marginal_log_prob(self, x, *args, proposal_scale, **kwargs):
            return np.full(len(x), -(np.log(proposal_scale / best) ** 2))

        def set_proposal_scale(self, *args):
            pass

    model, x, steps = Parabola(), np.zeros((2, 5)), []
    if np.isnan(best):
        with pytest.raises(ValueError, match="no finite bound at any scale"):
            tune_proposal_scale(model, x, progress=steps.append)
        assert steps == [*range(1, 10), 17]
        return
    # Brent's search finds the top of a parabola at once.
    assert tune_proposal_scale(model, x, progress=steps.append) == pytest.approx(best)
    assert steps == [*range(1, len(steps)), 17]
    assert len(steps) < 17


def test_tuning_uses_the_named_proposal(linear):
    _, vae, marginal, _ = linear
    # With few events the best scale is one that their noise happens to favour.
    x = marginal.rvs(256, random_state=0)
    found = tune_proposal_scale(vae, x, proposal="laplace", num_samples=32)
    assert 0.8 < found < 1.2  # exact at 1
    assert set(vae.proposal_scales) == {"laplace"}
    vae.proposal_scales.clear()


def tame(model):
    """Draws a model towards a linear one: one mode, no far outliers."""
    for weight in model.trainable_weights:
        weight.assign(0.4 * weight)
    return model


def log_marginal_by_grid(model, x):
    """Log of the sum of p(z, y) over a fine grid in the plane of the latents."""
    y, log_det = model._preprocess(x)
    # Nothing of the proposal is in it. The posteriors are a few steps wide at least.
    step = 0.1
    nodes = np.arange(-14.0, 14.0, step)
    grid = np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 1, 2)
    z = tf.repeat(tf.constant(grid), len(y), axis=1)
    log_joint = model._latent_log_prob(z, y).numpy()
    # The edge holds nothing: the grid misses nothing.
    edge = np.abs(grid[:, 0]).max(-1) > 13.7
    assert (log_joint[edge].max(0) < log_joint.max(0) - 14.0).all()
    return logsumexp(log_joint, axis=0) + 2 * np.log(step) + log_det


@pytest.mark.parametrize("decoder_scale", ["independent", "dependent"])
@pytest.mark.parametrize("cls", [ExpandedAEF, VAE])
def test_laplace_fits_a_curved_posterior(cls, decoder_scale, rng):
    outputs = 2 if decoder_scale == "dependent" else 1
    model = small_model(
        ExpandedAEF,
        (5,),
        2,
        decoder=dense_decoder(
            2, (5,), hidden_units=(6,), num_outputs=outputs, dtype="float64"
        ),
        decoder_scale=decoder_scale,
    )
    tame(model)
    if cls is VAE:
        model = VAE.from_aef(model)
    x = tf.constant(0.5 * rng.normal(size=(4, 5)))
    expected = log_marginal_by_grid(model, x)
    estimate = model.importance_estimate(
        x, 4000, proposal="laplace", proposal_scale=1.1, seed=0
    )
    size = estimate.effective_sample_size.numpy()
    assert size.min() > 500
    error = np.sqrt(1.0 / size - 1.0 / 4000)
    difference = np.abs(estimate.log_prob - expected)
    np.testing.assert_array_less(difference, 4 * error + 1e-3)


def test_newton_ends_at_the_mode(rng):
    # 0.5 |r|^2 with r = (z0 - 1, 3 (z1 - z0^2)): Rosenbrock's valley, mode at (1, 1).
    def residuals(z):
        return tf.stack([z[..., 0] - 1.0, 3.0 * (z[..., 1] - z[..., 0] ** 2)], -1)

    def log_density(z):
        return -0.5 * tf.reduce_sum(residuals(z) ** 2, axis=-1)

    start = tf.constant(rng.normal(size=(5, 2)) * 2)
    fit = laplace_approximation(log_density, residuals, start, num_steps=60)
    np.testing.assert_allclose(fit.mode, np.ones((5, 2)), atol=1e-2)
    jacobian = np.array([[1.0, 0.0], [-6.0, 3.0]])
    covariance = np.linalg.inv(jacobian.T @ jacobian)
    np.testing.assert_allclose(
        fit.factor[0] @ tf.transpose(fit.factor[0]), covariance, rtol=0.1
    )
    determinant = np.linalg.slogdet(fit.factor.numpy())[1]
    np.testing.assert_allclose(fit.log_det, determinant, rtol=1e-9)
    # One step from far away must not leave the hill.
    one = laplace_approximation(log_density, residuals, start, num_steps=1)
    assert (log_density(one.mode).numpy() >= log_density(start).numpy()).all()


def test_latents_of_very_different_scale_and_nan_leave_the_others_alone():
    # In single precision J' J of these residuals is not positive definite.
    weights = tf.constant([[1e4, 1.0], [1e4, 1.001], [0.0, 1e-3]])

    def residuals(z):
        return tf.linalg.matvec(weights, z)

    def log_density(z):
        return -0.5 * tf.reduce_sum(residuals(z) ** 2, axis=-1)

    start = tf.constant([[1.0, 2.0], [np.nan, 0.0], [-3.0, 0.5]])
    fit = laplace_approximation(log_density, residuals, start)
    of_array = laplace_approximation(log_density, residuals, start.numpy())
    np.testing.assert_array_equal(of_array.mode, fit.mode)
    covariance = np.linalg.inv(weights.numpy().T.astype(float) @ weights.numpy())
    for i in (0, 2):
        got = fit.factor[i] @ tf.transpose(fit.factor[i])
        np.testing.assert_allclose(np.diag(got), np.diag(covariance), rtol=0.05)


def test_events_are_searched_as_if_alone():
    # A curved density: near its mode each step goes a part of the way.
    def residuals(z):
        return tf.concat([z - 1.0, z**2 + 1.0], axis=-1)

    def log_density(z):
        return -0.5 * tf.reduce_sum(residuals(z) ** 2, axis=-1)

    start = tf.constant([[0.35], [5.0], [-40.0]], tf.float64)
    together = laplace_approximation(log_density, residuals, start).mode
    alone = [
        laplace_approximation(log_density, residuals, start[i : i + 1]).mode
        for i in range(3)
    ]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-12)


def test_where_nothing_has_a_density_the_search_stays(rng):
    # The second event has none anywhere, so that steps from it are NaN.
    def log_density(z):
        lost = tf.constant([0.0, np.inf])
        return -0.5 * tf.reduce_sum((z - 1.0) ** 2, axis=-1) * (1.0 + lost) - lost

    start = tf.constant([[0.0, 3.0], [5.0, 4.0]])
    fit = laplace_approximation(log_density, lambda z: z - 1.0, start)
    np.testing.assert_allclose(fit.mode, [[1.0, 1.0], [5.0, 4.0]], atol=1e-6)


def test_forward_jacobian_is_the_jacobian(rng):
    model = small_model(ExpandedAEF, (4, 4, 1), 3, decoder="conv")
    z = tf.constant(rng.normal(size=(2, 3)))
    with tf.GradientTape() as tape:
        tape.watch(z)
        values = model._residuals(z)
    np.testing.assert_allclose(
        forward_jacobian(model._residuals, z),
        tape.batch_jacobian(values, z),
        rtol=1e-9,
        atol=1e-12,
    )


def test_the_precision_is_the_fisher_information_where_the_scale_depends_on_z(rng):
    decoder = dense_decoder(2, (5,), hidden_units=(6,), num_outputs=2, dtype="float64")
    model = small_model(
        ExpandedAEF, (5,), 2, decoder=decoder, decoder_scale="dependent"
    )
    z = tf.constant(rng.normal(size=(1, 2)))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(z)
        loc, scale = model.decoder(z)
        log_scale = tf.math.log(scale)
        base = model.prior_flow.bijector.inverse(tf.identity(z))
    loc, log_scale, base = (
        tape.batch_jacobian(part, z).numpy()[0] for part in (loc, log_scale, base)
    )
    loc /= scale.numpy()[0][:, None]
    expected = loc.T @ loc + 2.0 * log_scale.T @ log_scale + base.T @ base
    jacobian = forward_jacobian(model._residuals, z).numpy()[0]
    np.testing.assert_allclose(jacobian.T @ jacobian, expected, rtol=1e-9)


@pytest.mark.slow
def test_an_iaf_prior_serves_the_laplace_proposal(rng):
    # Its density is sequential: the Jacobian goes through a loop.
    prior = flows.IAF(2, num_layers=1, hidden_units=4, dtype="float64")
    model = tame(small_model(ExpandedAEF, (5,), 2, prior_flow=prior))
    x = tf.constant(rng.normal(size=(2, 5)))
    expected = log_marginal_by_grid(model, x)
    estimate = model.importance_estimate(x, 2000, proposal="laplace", seed=0)
    np.testing.assert_allclose(estimate.log_prob, expected, atol=0.02)


def test_a_loose_estimate_says_so_in_its_line(linear):
    model, _, marginal, _ = linear
    x = marginal.rvs(6, random_state=0)
    arguments = {"split": "test", "num_samples": 50}
    wide = likelihood.marginal_records(model, x, proposal_scale=1e4, **arguments)
    for record in wide:
        # None is below 1.
        loose = "for half of the images an effective sample size of at most 1.0 of 50"
        assert f"LOOSE: {loose}" in record.detail
        assert record.detail.endswith("--proposal laplace is tighter")
    fitted = likelihood.marginal_records(model, x, proposal="laplace", **arguments)
    assert not any("LOOSE" in record.detail for record in fitted)
    single = {**arguments, "num_samples": 1}
    [first, *_] = likelihood.marginal_records(model, x, proposal_scale=1e4, **single)
    assert "LOOSE" not in first.detail


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"num_repeats": 0}, "num_repeats must be at least 1, got 0"),
        ({"proposal": "prior"}, "proposal must be 'encoder' or 'laplace', got 'prior'"),
        ({"proposal_scale": -1.0}, "proposal_scale must be a positive number, got -1"),
        ({"proposal_scale": np.nan}, "proposal_scale must be a positive number"),
    ],
)
def test_bad_arguments_are_refused(linear, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        linear[0].marginal_log_prob(np.zeros((2, 16)), **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 16)), "at least 2 images, got 1"),
        (np.zeros((0, 16)), "at least 2 images, got 0"),
        (
            np.where(np.arange(64).reshape(4, 16) % 40 == 3, np.nan, 0.0),
            "2 of 4 images hold NaN",
        ),
        (np.zeros((3, 15)), r"\[batch, 16\], got \[3, 15\]"),
    ],
)
def test_bad_images_are_refused(linear, images, message):
    for function in (
        lambda: likelihood.marginal_records(linear[0], images, split="test"),
        lambda: likelihood.objective_records(linear[0], images, split="test"),
        lambda: tune_proposal_scale(linear[0], images),
    ):
        with pytest.raises(ValueError, match=message) as error:
            function()
        assert "\n" not in str(error.value)


def test_noise_follows_from_an_images_place_in_the_set(digit_images, monkeypatch):
    vae = VAE((8, 8, 1), 2, encoder="dense", decoder="dense", num_levels=17)
    x, original, seen = digit_images[:7], VAE._preprocessed, []

    def preprocessed(self, images, seed):
        seen.append(original.__get__(self)(images, seed))
        return seen[-1]

    monkeypatch.setattr(VAE, "_preprocessed", preprocessed)
    values, events = [], []
    for size in (3, 7):
        options = {"split": "test", "batch_size": size}
        values.append(likelihood.objective_records(vae, x, **options)[0].per_image)
        seen.clear()
        likelihood.marginal_records(vae, x, num_samples=2, **options)
        events.append(np.concatenate([y for y, _ in seen]))
    np.testing.assert_allclose(*values, rtol=1e-5)
    np.testing.assert_allclose(values[0], vae.elbo(x, seed=0), rtol=1e-5)
    np.testing.assert_allclose(*events, rtol=1e-6)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        likelihood.objective_records(vae, x, split="test", batch_size=0)
    for call in (
        lambda: vae.elbo(x, seed=tf.constant(3.0)),
        lambda: likelihood.objective_records(vae, x, split="test", seed=None),
    ):
        with pytest.raises(ValueError, match="seed must be an integer, got"):
            call()


def test_records_are_weighted_by_example(linear):
    aef, _, marginal, _ = linear
    x = marginal.rvs(10, random_state=0)
    records = likelihood.objective_records(aef, x, split="test", batch_size=4)
    values = aef.joint_log_prob(x).numpy()
    assert records[0].name == "joint_log_prob"
    np.testing.assert_allclose(records[0].value, values.mean(), rtol=1e-12)
    error = values.std(ddof=1) / np.sqrt(10)
    np.testing.assert_allclose(records[0].standard_error, error, rtol=1e-12)
    marginals = likelihood.marginal_records(
        aef, x, split="validation", num_samples=3, num_repeats=2, paper_estimator=True
    )
    by_name = {record.name: record for record in marginals}
    nats = by_name["marginal_log_prob"]
    assert (nats.num_samples, nats.num_repeats, nats.num_images) == (3, 2, 10)
    assert (nats.proposal, nats.split) == ("encoder", "validation")
    assert "with - log K" in nats.estimator
    assert nats.versions["keras"] == keras.__version__
    bits = by_name["marginal_bits_per_dim"].value
    np.testing.assert_allclose(bits, -nats.value / (16 * np.log(2)), rtol=1e-12)
    paper = by_name["paper_without_log_k_log_prob"]
    assert paper.value < nats.value + np.log(3)
    assert "too high by 1.10 nats" in paper.estimator
