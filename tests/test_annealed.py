"""Annealed importance sampling: bounds that meet a marginal in closed form."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from test_importance import tame
from test_models import linear_gaussian, small_model

from aef_tfp import flows, inference, metrics
from aef_tfp.engine.noise import starting_at
from aef_tfp.inference import annealed, referee
from aef_tfp.models import IWAE, VAE, ExpandedAEF, PartitionedAEF
from aef_tfp.networks import batching, dense_decoder

LEAPFROG_STEPS = tf.constant(3)


def seed_of(number):
    return tf.constant([number, 0])


# The path alone, on a Gaussian: z ~ N(0, I), y = z / s + noise, all entries apart.

SCALES = np.array([1.0, 0.5])
EVENT = np.array([0.8, -1.2])


def log_prior(z):
    return tf.reduce_sum(-0.5 * z**2 - 0.5 * np.log(2 * np.pi), axis=-1)


def log_likelihood(z):
    return log_prior((EVENT - z) / SCALES) - np.log(SCALES).sum()


def tempered(beta):
    """Mean and variance of p(z) p(y | z)^beta."""
    variance = 1.0 / (1.0 + beta / SCALES**2)
    return variance * beta * EVENT / SCALES**2, variance


LOG_MARGINAL = multivariate_normal(np.zeros(2), np.diag(1 + SCALES**2)).logpdf(EVENT)


@tf.function
def path(start, betas, step_sizes, seed):
    return annealed.annealed_log_weights(
        log_prior, log_likelihood, start, betas, step_sizes, LEAPFROG_STEPS, seed
    )


def log_mean(log_weights):
    """Logarithm of a mean, and its standard error."""
    count = log_weights.size
    weights = np.exp(log_weights - log_weights.max())
    error = weights.std() / weights.mean() / np.sqrt(count)
    return logsumexp(log_weights) - np.log(count), error


def test_weights_have_the_right_mean_in_both_directions(rng):
    # Eight steps, too long for a good acceptance: far from equilibrium at every beta,
    # where any mistake of a step or a weight shows.
    betas = annealed.sigmoidal_schedule(8)
    sizes = tf.linspace(tf.constant(1.2, tf.float64), 0.7, 9)
    forward = path(tf.constant(rng.normal(size=(40_000, 2))), betas, sizes, seed_of(1))
    assert 0.4 < forward.acceptance.numpy().mean() < 0.9
    found, error = log_mean(forward.log_weights.numpy())
    assert error < 0.01
    assert abs(found - LOG_MARGINAL) < 4 * error

    mean, variance = tempered(1.0)
    posterior = tf.constant(mean + np.sqrt(variance) * rng.normal(size=(40_000, 2)))
    back = path(posterior, betas[::-1], sizes[::-1], seed_of(2))
    found, error = log_mean(back.log_weights.numpy())
    assert error < 0.03
    assert abs(-found - LOG_MARGINAL) < 4 * error
    # Means of logarithms are bounds.
    assert forward.log_weights.numpy().mean() < LOG_MARGINAL - 0.05
    assert -back.log_weights.numpy().mean() > LOG_MARGINAL + 0.05


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_hamiltonian_steps_leave_their_density_invariant(beta, rng):
    mean, variance = tempered(beta)
    state = tf.constant(mean + np.sqrt(variance) * rng.normal(size=(40_000, 2)))
    at = tf.constant(beta, tf.float64)
    # A large step: without the decision, the variance would be another.
    size = tf.constant(1.5 * np.sqrt(variance.min()), tf.float64)
    point = annealed.Point.of(log_prior, log_likelihood, state, at)
    for number in range(3):
        point, probability = annealed.hamiltonian_step(
            log_prior,
            log_likelihood,
            point,
            at,
            size,
            LEAPFROG_STEPS,
            seed_of(number),
        )
        assert 0.3 < probability.numpy().mean() < 0.97
    # What a place knows of itself is true.
    again = annealed.Point.of(log_prior, log_likelihood, point.state, at)
    for old, new in zip(point, again, strict=True):
        np.testing.assert_allclose(old, new, rtol=1e-9, atol=1e-12)
    moved = np.any(point.state.numpy() != state.numpy(), axis=1)
    assert moved.mean() > 0.8
    error = np.sqrt(variance / 40_000)
    found = point.state.numpy()
    np.testing.assert_array_less(np.abs(found.mean(0) - mean), 4 * error)
    np.testing.assert_allclose(found.var(0), variance, rtol=4 * np.sqrt(2 / 40_000))


def test_steps_find_their_density_from_elsewhere():
    at = tf.constant(0.4, tf.float64)
    state = tf.fill([5000, 2], tf.constant(3.0, tf.float64))
    point = annealed.Point.of(log_prior, log_likelihood, state, at)
    for number in range(30):
        point, _ = annealed.hamiltonian_step(
            log_prior,
            log_likelihood,
            point,
            at,
            tf.constant(0.4, tf.float64),
            LEAPFROG_STEPS,
            seed_of(number),
        )
    mean, variance = tempered(0.4)
    np.testing.assert_allclose(point.state.numpy().mean(0), mean, atol=0.06)
    np.testing.assert_allclose(point.state.numpy().var(0), variance, rtol=0.1)


def test_the_leapfrog_leads_back_and_keeps_volume(rng):
    def likelihood(z):
        # Curved, so that a mistake of first order shows.
        return -tf.reduce_sum(tf.sin(2.0 * z) + z**4, axis=-1)

    beta, size = tf.constant(0.7, tf.float64), tf.constant([0.1, 0.03], tf.float64)
    state, momentum = (tf.constant(rng.normal(size=(2, 3))) for _ in range(2))

    def flow(state, momentum):
        start = annealed.Point.of(log_prior, likelihood, state, beta)
        return annealed.leapfrog(
            log_prior, likelihood, start, momentum, beta, size, tf.constant(7)
        )

    end, last = flow(state, momentum)
    assert np.abs(end.state - state).min() > 1e-3
    back, first = flow(end.state, -last)
    np.testing.assert_allclose(back.state, state, rtol=1e-9)
    np.testing.assert_allclose(first, -momentum, rtol=1e-9)

    with tf.GradientTape(persistent=True) as tape:
        tape.watch([state, momentum])
        end, last = flow(state, momentum)
        both = tf.concat([end.state, last], axis=-1)
    jacobian = tf.concat(
        [tape.batch_jacobian(both, part) for part in (state, momentum)], axis=-1
    )
    np.testing.assert_allclose(np.linalg.slogdet(jacobian)[1], 0.0, atol=1e-9)


def test_the_schedule_goes_all_the_way():
    betas = annealed.sigmoidal_schedule(100).numpy()
    assert betas.shape == (101,)
    assert (betas[0], betas[-1]) == (0.0, 1.0)
    steps = np.diff(betas)
    assert (steps > 0).all()
    np.testing.assert_allclose(steps, steps[::-1], rtol=1e-9)
    assert steps[50] > 10 * steps[0]
    np.testing.assert_array_equal(annealed.sigmoidal_schedule(1), [0.0, 1.0])


def test_step_sizes_follow_the_acceptance_of_each_event():
    # The second event's posterior is 30 times as narrow.
    widths = tf.constant([[1.0], [1.0 / 30.0]], tf.float64)

    def likelihood(z):
        return log_prior(z / widths[..., None])

    start = tf.constant(np.random.default_rng(1).normal(size=(2, 8, 2)))
    betas = annealed.sigmoidal_schedule(400)
    sizes = tf.function(annealed.tuned_step_sizes)(
        log_prior, likelihood, start, betas, LEAPFROG_STEPS, seed_of(1)
    ).numpy()
    assert sizes.shape == (401, 2, 1)
    wide, narrow = sizes[-1, :, 0]
    assert 10 < wide / narrow < 60
    chains = tf.function(annealed.annealed_log_weights)(
        log_prior, likelihood, start, betas, sizes, LEAPFROG_STEPS, seed_of(2)
    )
    acceptance = chains.acceptance.numpy()
    assert acceptance.shape == (2, 8)
    np.testing.assert_allclose(acceptance.mean(1), 0.7, atol=0.12)


def test_chains_that_overflow_have_no_weight_and_take_none_from_others():
    def likelihood(z):
        return tf.where(z[..., 0] > 2.0, np.nan, log_likelihood(z))

    start = tf.constant([[0.0, 0.0], [3.0, 0.0], [0.5, 0.5]], tf.float64)
    chains = annealed.annealed_log_weights(
        log_prior,
        likelihood,
        start,
        annealed.sigmoidal_schedule(5),
        tf.fill([6], tf.constant(0.2, tf.float64)),
        LEAPFROG_STEPS,
        seed_of(0),
    )
    log_weights = chains.log_weights.numpy()
    assert np.isfinite(log_weights[[0, 2]]).all()
    assert log_weights[1] < -1e300
    assert np.isfinite(chains.state).all()


# Models.


@pytest.fixture(scope="module")
def linear():
    """d = 4, N = 8: a VAE, an AEF of the same parts, and the marginal of both."""
    aef, marginal, _ = linear_gaussian(4, 8)
    vae = VAE.from_aef(aef)
    vae.core_flow.flow.flow.flows[0].set_weights([np.zeros(4), np.zeros(4)])
    # Plain graphs are there sooner.
    vae.jit_compile = aef.jit_compile = False
    return vae, aef, marginal


def test_both_bounds_meet_the_closed_form(linear):
    model, _, marginal = linear
    result = inference.sandwich(model, 40, num_steps=1200, num_samples=64, seed=1)
    expected = marginal.logpdf(result.events)
    for bound, sign in ((result.lower, 1.0), (result.upper, -1.0)):
        assert bound.log_prob.shape == (40,)
        assert 0.5 < bound.acceptance.numpy().mean() < 0.8
        size = bound.effective_sample_size.numpy()
        assert ((size >= 1.0) & (size <= 16.0)).all()
        assert size.mean() > 10.0
        # How far inside it lies: negative but for chance.
        inside = sign * (bound.log_prob.numpy() - expected)
        error = inside.std(ddof=1) / np.sqrt(40)
        assert error < 0.03
        assert inside.mean() < 3 * error
        assert abs(inside.mean()) < 0.05
    np.testing.assert_allclose(
        result.gap, result.upper.log_prob - result.lower.log_prob
    )
    # Exact for a Gaussian posterior; the other one is not.
    np.testing.assert_allclose(result.estimates["laplace"], expected, rtol=1e-6)
    encoder = result.estimates["encoder"].numpy() - expected
    assert 0.01 < np.abs(encoder).max() < 2.0
    assert abs(encoder.mean()) < 0.1


def test_too_few_steps_are_loose_on_both_sides(linear):
    model, _, marginal = linear
    result = inference.sandwich(
        model, 20, num_steps=3, num_chains=2, proposals=(), seed=1
    )
    expected = marginal.logpdf(result.events)
    assert result.lower.log_prob.numpy().mean() < expected.mean() - 1.0
    assert result.upper.log_prob.numpy().mean() > expected.mean() + 1.0
    assert result.estimates == {}


def test_an_estimate_needs_no_encoder(linear):
    vae, aef, marginal = linear
    x = marginal.rvs(3, random_state=0)
    arguments = {"num_steps": 100, "num_chains": 4, "seed": 3}
    first = inference.annealed_log_prob(vae, x, **arguments)
    # Other encoders, the same p(z) p(x | z).
    np.testing.assert_allclose(
        inference.annealed_log_prob(aef, x, **arguments).log_prob,
        first.log_prob,
        rtol=1e-6,
    )
    np.testing.assert_array_equal(
        inference.annealed_log_prob(vae, x, **arguments).log_prob, first.log_prob
    )
    other = inference.annealed_log_prob(vae, x, **{**arguments, "seed": 4})
    assert (other.log_prob.numpy() != first.log_prob.numpy()).all()
    np.testing.assert_allclose(other.log_prob, first.log_prob, atol=2.0)


def test_passes_change_nothing(linear, monkeypatch):
    vae, _, marginal = linear
    x = marginal.rvs(5, random_state=0)
    # Short, since chaos makes much of a last digit.
    arguments = {"num_steps": 5, "num_chains": 20, "seed": 3}
    whole = inference.annealed_log_prob(vae, x, **arguments)
    drawn = inference.sandwich(vae, 5, proposals=["encoder"], **arguments)
    # Two events of 16 chains with a gradient.
    monkeypatch.setattr(batching, "PASS_ENTRIES", 2 * 16 * 8 * 8)
    assert referee._Paths(vae, 20, 5, 5).events_per_pass == 2
    parts = inference.annealed_log_prob(vae, x, **arguments)
    for name in ("log_prob", "effective_sample_size", "acceptance"):
        expected = getattr(whole, name)
        np.testing.assert_allclose(getattr(parts, name), expected, rtol=1e-9)
    again = inference.sandwich(vae, 5, proposals=["encoder"], **arguments)
    np.testing.assert_allclose(again.events, drawn.events, rtol=1e-12)
    np.testing.assert_allclose(again.gap, drawn.gap, rtol=1e-9)
    assert again.estimates["encoder"].shape == (5,)
    np.testing.assert_allclose(
        again.estimates["encoder"], drawn.estimates["encoder"], rtol=1e-9
    )
    # A name alone is taken for a list of it.
    named = inference.sandwich(vae, 5, proposals="encoder", **arguments)
    np.testing.assert_array_equal(
        named.estimates["encoder"], again.estimates["encoder"]
    )


def test_no_events_have_no_values(linear):
    estimate = inference.annealed_log_prob(linear[0], np.zeros((0, 8)), num_steps=2)
    assert estimate.log_prob.shape == estimate.acceptance.shape == (0,)


def test_paths_begin_at_the_prior_and_at_the_given_latents(monkeypatch):
    model = small_model(ExpandedAEF, (5,), 2)
    model.jit_compile = False
    paths = referee._Paths(model, 2, 1, 1)
    draws = model.prior.sample(20_000, seed=1).numpy()
    assert np.abs(paths.center).max() > 0.1
    np.testing.assert_allclose(paths.center, np.median(draws, axis=0), atol=0.1)
    assert np.abs(paths.width - 1.0).max() > 0.05
    np.testing.assert_allclose(paths.width, draws.std(axis=0), rtol=0.3)

    place = starting_at(seed_of(3), 0)
    latents, y = referee._simulated.__get__(model)(tf.constant(4), place)
    sizes, zero = paths.step_sizes(y, place), tf.zeros([4], tf.float64)

    def likelihood(z):
        return model._latent_log_prob(z, y) - model.prior.log_prob(tf.identity(z))

    # In one step, all of the weight is the likelihood of the start.
    upper = paths.upper(y, latents, sizes, zero, place).log_prob
    np.testing.assert_allclose(upper, likelihood(latents), rtol=1e-9)
    # In 16 blocks in place of 1,000.
    monkeypatch.setattr(referee, "_BLOCK", 1000)
    many = referee._Paths(model, 16_000, 1, 1)
    lower = many.lower(y, sizes, zero, place).log_prob
    weights = likelihood(tf.constant(draws[:16_000, None]))
    expected = logsumexp(weights, axis=0) - np.log(16_000)
    np.testing.assert_allclose(lower, expected, atol=0.2)


@pytest.mark.parametrize("prior", [flows.MAF, flows.IAF])
def test_the_two_densities_are_those_of_the_model(prior, rng):
    decoder = dense_decoder(2, (5,), hidden_units=(6,), num_outputs=2, dtype="float64")
    model = small_model(
        ExpandedAEF,
        (5,),
        2,
        decoder=decoder,
        decoder_scale="dependent",
        prior_flow=prior(2, num_layers=1, hidden_units=4, dtype="float64"),
    )
    y, v = rng.normal(size=(3, 1, 5)), tf.constant(rng.normal(size=(3, 4, 2)))
    center, width = rng.normal(size=2), np.array([0.5, 2.0])
    prior_of, likelihood_of = referee._densities(model, tf.constant(y), center, width)
    got = prior_of(v) + likelihood_of(v)
    assert got.shape == (3, 4)
    for i in range(3):
        z = center + width * v[i]
        expected = model._latent_log_prob(z, tf.repeat(tf.constant(y[i]), 4, axis=0))
        np.testing.assert_allclose(got[i], expected, rtol=1e-9)


def test_images_of_levels_agree_with_importance_sampling():
    model = tame(small_model(ExpandedAEF, (4, 4, 1), 2, num_levels=17))
    model.jit_compile = False
    arguments = {"num_steps": 120, "num_leapfrog_steps": 3}
    x = np.random.default_rng(1).integers(17, size=(20, 4, 4, 1), dtype=np.uint8)
    got = inference.annealed_log_prob(model, x, seed=5, **arguments)
    # The same noise dequantizes.
    near = model.marginal_log_prob(x, 1000, proposal="laplace", seed=5)
    np.testing.assert_allclose(got.log_prob, near, atol=0.7)
    assert abs(np.mean(got.log_prob - near)) < 0.1

    result = inference.sandwich(
        model, 20, proposals=["laplace"], num_samples=1000, seed=5, **arguments
    )
    events = result.events.numpy()
    assert events.shape == (20, 4, 4, 1)
    assert ((events > 0.0) & (events < 1.0)).all()
    near = model.marginal_log_prob(events, 1000, proposal="laplace", seed=5)
    assert abs(np.mean(result.estimates["laplace"] - near)) < 0.03
    for bound in (result.lower, result.upper):
        assert abs(np.mean(bound.log_prob - near)) < 0.1


def test_single_precision_compiled(rng):
    aef = small_model(ExpandedAEF, (5,), 2, dtype="float32", prior_flow="none")
    model = IWAE.from_aef(tame(aef))
    model.jit_compile = True
    x = rng.normal(size=(20, 5)).astype("float32")
    arguments = {"num_steps": 120, "num_leapfrog_steps": 3}
    got = inference.annealed_log_prob(model, x, seed=5, **arguments)
    assert got.log_prob.dtype == got.acceptance.dtype == "float32"
    near = model.marginal_log_prob(x, 20_000, proposal_scale=1.5, seed=5)
    assert abs(np.mean(got.log_prob - near)) < 0.1


def test_records_say_what_they_are(linear):
    vae, _, marginal = linear
    x = marginal.rvs(6, random_state=0)
    done = []
    records = metrics.annealed_records(
        vae,
        x,
        split="test",
        num_chains=3,
        num_steps=40,
        num_leapfrog_steps=2,
        batch_size=4,
        progress=done.append,
        iteration=7,
    )
    assert done == [4, 6]
    nats, bits, size = records
    assert nats.name == "annealed_log_prob"
    assert bits.name == "annealed_bits_per_dim"
    assert size.name == "annealed_effective_sample_size"
    np.testing.assert_allclose(bits.value, -nats.value / (8 * np.log(2)), rtol=1e-12)
    assert 1.0 <= size.value <= 3.0
    for record in records:
        assert record.estimator.startswith(
            "annealed importance sampling, 40 steps of 2"
        )
        assert (record.num_images, record.num_samples, record.iteration) == (6, 3, 7)
        assert record.proposal is None
        assert record.detail.startswith("acceptance 0.")
    # How many are evaluated at once changes no noise.
    whole = inference.annealed_log_prob(
        vae, x, num_chains=3, num_steps=40, num_leapfrog_steps=2, seed=0
    )
    expected = whole.log_prob.numpy().mean()
    np.testing.assert_allclose(nats.value, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_chains": 0}, "num_chains must be at least 1, got 0"),
        ({"num_chains": 10**15}, "num_chains of 1,000,000,000,000,000 would take"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"num_steps": 2.5}, "num_steps must be an integer, got 2.5"),
        ({"num_leapfrog_steps": -1}, "num_leapfrog_steps must be at least 1, got -1"),
        ({"seed": "one"}, "seed must be an integer, got 'one'"),
        ({"num_events": 0}, "num_events must be at least 1, got 0"),
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"proposals": ["prior"]}, "proposal must be 'encoder' or 'laplace', got 'pri"),
    ],
)
def test_bad_numbers_are_refused(linear, arguments, message):
    calls = [lambda: inference.sandwich(linear[0], **{"num_events": 2, **arguments})]
    if not {"num_events", "num_samples", "proposals"} & arguments.keys():
        calls.append(
            lambda: inference.annealed_log_prob(
                linear[0], np.zeros((2, 8)), **arguments
            )
        )
    for call in calls:
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_events_and_models_that_do_not_fit_are_refused(linear):
    with pytest.raises(ValueError, match=r"\[batch, 8\], got \[3, 7\]"):
        inference.annealed_log_prob(linear[0], np.zeros((3, 7)))
    exact = small_model(PartitionedAEF, (4, 4, 1), 2)
    for call in (
        lambda: inference.annealed_log_prob(exact, np.zeros((2, 4, 4, 1))),
        lambda: inference.sandwich(exact, 2),
    ):
        with pytest.raises(TypeError, match="got PartitionedAEF; a model with an exac"):
            call()


@pytest.mark.slow
def test_laplace_is_near_the_referee_on_a_trained_model(digit_images):
    small = {"num_layers": 1, "hidden_units": 32, "num_blocks": 1}
    model = ExpandedAEF(
        (8, 8, 1),
        8,
        num_levels=17,
        encoder="dense",
        decoder="dense",
        core_flow=flows.MAF(8, **small),
        prior_flow=flows.MAF(8, **small),
    )
    # All is over before a compiler would be done.
    model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=200.0), jit_compile=False)
    model.fit(digit_images[:1300], batch_size=64, epochs=15, verbose=0)
    x = digit_images[1300:1350]
    estimate = inference.annealed_log_prob(model, x, num_steps=400, seed=0)
    laplace = model.marginal_log_prob(x, 128, proposal="laplace", seed=0)
    difference = (laplace - estimate.log_prob).numpy()
    error = difference.std(ddof=1) / np.sqrt(50)
    assert error < 0.06
    assert abs(difference.mean()) < 0.2
    # Another dequantization, or no - log K, would be a nat or five away.
    result = inference.sandwich(model, 50, proposals=["laplace"], num_steps=250, seed=0)
    gap = result.gap.numpy()
    assert -0.15 < gap.mean() < 0.2
    for bound in (result.lower, result.upper):
        difference = result.estimates["laplace"] - bound.log_prob
        assert abs(difference.numpy().mean()) < 0.2
