"""VAE and IWAE: bounds against closed forms, and the way from a VAE to an AEF."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp
from scipy.stats import norm
from test_models import linear_gaussian, small_flow

from aef_tfp import flows
from aef_tfp.models import IWAE, VAE, ExpandedAEF, PartitionedAEF, PixelMAF
from aef_tfp.networks import dense_decoder, dense_encoder


def vae(cls=VAE, event_shape=(5,), latent_dim=2, dtype="float64", **arguments):
    """A small VAE with weights in general position."""
    posterior = flows.Inverted(small_flow(latent_dim, dtype=dtype), dtype=dtype)
    parts = {"posterior_flow": posterior, **arguments}
    network = {
        "encoder": dense_encoder(event_shape, (6,), dtype=dtype),
        "decoder": dense_decoder(
            latent_dim, event_shape, hidden_units=(6,), dtype=dtype
        ),
        "prior_flow": small_flow(latent_dim, dtype=dtype),
    }
    model = cls(event_shape, latent_dim, dtype=dtype, **{**network, **parts})
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(weight + 0.2 * rng.normal(size=weight.shape))
    return model


def log_weight_by_hand(model, y, epsilon):
    """log p(y | z) + log p(z) - log q(z | y), term by term."""
    loc, scale = (part.numpy() for part in model.encoder(y))
    bijector = model.posterior_flow.bijector
    u = bijector.forward(tf.constant(epsilon)).numpy()
    log_det = bijector.forward_log_det_jacobian(tf.constant(epsilon), 1).numpy()
    z = loc + scale * u
    log_q = norm.logpdf(epsilon).sum(-1) - log_det - np.log(scale).sum(-1)
    mean, sigma = (part.numpy() for part in model.decoder(tf.constant(z)))
    log_likelihood = norm.logpdf(y.numpy(), mean, sigma).sum(-1)
    return log_likelihood + model.prior.log_prob(tf.constant(z)).numpy() - log_q


@pytest.mark.parametrize(
    "posterior", [None, "none", lambda: small_flow(2)], ids=["iaf", "none", "maf"]
)
@pytest.mark.parametrize("prior", ["none", lambda: small_flow(2, flows.IAF)])
def test_a_weight_is_likelihood_times_prior_over_posterior(posterior, prior, rng):
    arguments = {"prior_flow": prior if prior == "none" else prior()}
    if posterior is not None:
        arguments["posterior_flow"] = posterior if posterior == "none" else posterior()
    model = vae(**arguments)
    y = tf.constant(rng.normal(size=(4, 5)))
    epsilon = rng.normal(size=(4, 2))
    got = model._log_weights_of(
        y, tf.ones((), tf.float64), model._propose(y), tf.constant(epsilon)
    )
    np.testing.assert_allclose(got, log_weight_by_hand(model, y, epsilon), rtol=1e-9)


def test_elbo_includes_the_preprocessing(rng):
    model = vae(event_shape=(4, 4, 1), latent_dim=2)
    x = tf.constant(rng.uniform(0.1, 0.9, size=(3, 4, 4, 1)))
    y = model.preprocessing.bijector.inverse(x)
    log_det = model.preprocessing.bijector.inverse_log_det_jacobian(x, 3)
    # The mean over many seeds of both differs by the log-determinant alone.
    noise = tf.constant(rng.normal(size=(500, 3, 2)))
    unit = tf.ones((), tf.float64)
    weights = model._log_weights_of(y, unit, model._propose(y), noise)
    raw = np.mean(weights, axis=0)
    elbo = np.mean([model.elbo(x, seed=seed) for seed in range(500)], axis=0)
    spread = np.std([model.elbo(x, seed=seed) for seed in range(50)], axis=0)
    np.testing.assert_array_less(
        np.abs(elbo - raw - log_det), 6 * spread / np.sqrt(500) + 1e-3
    )


def linear_vae():
    """The VAE of `linear_gaussian`: the same decoder, encoder and closed form."""
    aef, marginal, _ = linear_gaussian()
    model = VAE.from_aef(aef)
    # No flow in the posterior: epsilon is u.
    norm_layer = model.core_flow.flow.flow.flows[0]
    norm_layer.set_weights([np.zeros(3), np.zeros(3)])
    return aef, model, marginal


def test_vae_and_aef_estimate_the_same_marginal():
    aef, model, marginal = linear_vae()
    x = marginal.rvs(6, random_state=0)
    expected = marginal.logpdf(x)
    scale = np.exp(-0.5)
    for estimate in (
        lambda seed: model.marginal_log_prob(x, 2000, seed=seed),
        lambda seed: aef.marginal_log_prob(x, 2000, proposal_scale=scale, seed=seed),
    ):
        values = np.stack([estimate(seed) for seed in range(8)])
        error = values.std(0, ddof=1) / np.sqrt(8)
        pooled = logsumexp(values, axis=0) - np.log(8)
        assert error.max() < 0.02
        np.testing.assert_array_less(np.abs(pooled - expected), 4 * error + 1e-3)


def test_bounds_tighten_in_their_order():
    _, model, marginal = linear_vae()
    x = marginal.rvs(400, random_state=0)
    iwae = IWAE.from_aef(ExpandedAEF.from_vae(model))
    assert iwae.num_importance_samples == 5
    elbo = np.mean(model.elbo(x, seed=0))
    five = np.mean(iwae.elbo(x, seed=0))
    many = np.mean(model.marginal_log_prob(x, 500, seed=0))
    assert elbo < five < many
    assert abs(many - np.mean(marginal.logpdf(x))) < 0.05


def test_gaussian_closed_form_of_the_elbo():
    _, model, _ = linear_vae()
    x = np.random.default_rng(0).normal(size=(3, 5))
    loc, scale = (part.numpy() for part in model.encoder(tf.constant(x)))
    kernel, bias = model.decoder.network.get_weights()
    sigma = model.decoder(tf.zeros((1, 3), tf.float64))[1].numpy()[0]
    kl = 0.5 * (scale**2 + loc**2 - 1 - 2 * np.log(scale)).sum(-1)
    mean = norm.logpdf(x, loc @ kernel + bias, sigma).sum(-1)
    spread = 0.5 * ((scale**2) @ (kernel**2) / sigma**2).sum(-1)
    samples = np.stack([model.elbo(x, seed=seed) for seed in range(2000)])
    error = samples.std(0) / np.sqrt(len(samples))
    np.testing.assert_array_less(
        np.abs(samples.mean(0) - (mean - spread - kl)), 4 * error
    )


@pytest.mark.parametrize(
    ("latent_dim", "millions"),
    [(2, 2.37), (4, 2.42), (8, 2.52), (16, 2.72), (32, 3.12)],
)
def test_parameter_counts_of_table_3(latent_dim, millions):
    model = VAE((28, 28, 1), latent_dim)
    count = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert round(count / 1e6, 2) == millions
    exact = {2: 2_371_079, 32: 3_120_419}
    if latent_dim in exact:
        assert count - 8 * 2 * (latent_dim - 1) == exact[latent_dim]


@pytest.mark.parametrize("cls", [VAE, IWAE])
def test_fit_save_and_load(cls, tmp_path, rng):
    model = vae(cls, (4, 4, 1), 2, dtype="float32", num_levels=17)
    images = rng.integers(0, 17, size=(64, 4, 4, 1), dtype=np.uint8)
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    before = [w.numpy() for w in model.trainable_weights]
    history = model.fit(images, batch_size=16, validation_data=images, verbose=0)
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert (weight.numpy() != old).any(), weight.path
    name = "elbo_bits_per_dim" if cls is VAE else "iwae_bits_per_dim"
    assert {name, f"val_{name}"} <= set(history.history)
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    assert json.dumps(copy.get_config()) == json.dumps(model.get_config())
    np.testing.assert_array_equal(model.elbo(images, seed=1), copy.elbo(images, seed=1))
    np.testing.assert_array_equal(
        model.marginal_log_prob(images, 3, seed=1),
        copy.marginal_log_prob(images, 3, seed=1),
    )
    assert model.sample(3, seed=1).shape == (3, 4, 4, 1)
    assert model.reconstruct(images[:3]).shape == (3, 4, 4, 1)


def test_adapt_normalizes_from_the_noise_side(rng):
    model = vae(event_shape=(5,), latent_dim=2)
    model.adapt(tf.constant(rng.normal(size=(512, 5))))
    epsilon = tf.constant(np.random.default_rng(5).normal(size=(4000, 2)))
    u = model.posterior_flow.bijector.forward(epsilon).numpy()
    np.testing.assert_allclose(u.mean(0), 0.0, atol=0.2)
    np.testing.assert_allclose(u.std(0), 1.0, atol=0.2)


def test_adapting_draws_other_noise_for_levels_than_for_latents(monkeypatch):
    model = vae(event_shape=(3,), latent_dim=3, num_levels=2)
    pairs = []
    monkeypatch.setattr(
        model.chain, "adapt", lambda *args: pairs.append(args) or tf.zeros([64, 3])
    )
    model.adapt(np.zeros((64, 3), np.uint8))
    epsilon, y, _ = pairs[0]
    correlation = np.corrcoef(norm.cdf(epsilon).ravel(), np.ravel(y))[0, 1]
    assert abs(correlation) < 0.3


@pytest.mark.parametrize("build", [VAE.from_aef, IWAE.from_aef, ExpandedAEF.from_vae])
def test_parts_of_other_kinds_are_refused(build):
    for model in (
        PartitionedAEF((3,), 2, core_flow="none", prior_flow="none"),
        PixelMAF((3,), num_layers=1, hidden_units=4),
    ):
        with pytest.raises(TypeError, match=rf"tfp, got {type(model).__name__}; netw"):
            build(model)


@pytest.mark.parametrize("posterior", ["iaf", "none"])
def test_a_vae_becomes_an_aef_with_the_same_parts_and_back(posterior, rng):
    arguments = {} if posterior == "iaf" else {"posterior_flow": "none"}
    model = vae(event_shape=(4, 4, 1), latent_dim=2, seed=3, **arguments)
    model.adapt(tf.constant(rng.uniform(0.1, 0.9, size=(64, 4, 4, 1))))
    aef = ExpandedAEF.from_vae(model)
    assert bool(aef._is_adapted.numpy())
    assert aef.seed == 3
    z = tf.constant(rng.normal(size=(3, 2)))
    np.testing.assert_array_equal(aef.decode(z), model.decode(z))
    np.testing.assert_array_equal(aef.sample(4, seed=1), model.sample(4, seed=1))
    back = VAE.from_aef(aef)
    x = tf.constant(rng.uniform(0.1, 0.9, size=(3, 4, 4, 1)))
    np.testing.assert_allclose(back.elbo(x, seed=1), model.elbo(x, seed=1), rtol=1e-12)
    # Copies: training one leaves the other.
    kernel = aef.decoder.network.trainable_weights[0]
    kernel.assign(kernel + 1.0)
    assert np.abs(aef.decode(z) - model.decode(z)).max() > 1e-6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: m.log_prob(np.zeros((1, 5))),
            "VAE has no log_prob; use",
        ),
        (lambda m: m.distribution, "VAE has no distribution; its likelihood is an"),
        (
            lambda m: m.marginal_log_prob(np.zeros((1, 5)), 0),
            "num_samples must be at",
        ),
        (lambda m: m.elbo(np.zeros((1, 4))), r"\[batch, 5\], got \[1, 4\]"),
        (
            lambda m: IWAE((5,), 2, num_importance_samples=0),
            "num_importance_samples",
        ),
        (lambda m: VAE((5,), 0), "latent_dim must be at least 1, got 0"),
        (lambda m: VAE((5,), 2, posterior_flow="glow"), "A flow must be"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises((ValueError, AttributeError), match=message) as error:
        call(vae())
    assert "\n" not in str(error.value)
