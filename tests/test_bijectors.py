"""Every bijector and flow: round trips and log-determinants, float64, no cache."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from calculus import (
    assert_bijective_and_finite,
    assert_scalar_congruency,
    fresh,
    perturb,
    with_log_det,
)

from aef_tfp import bijectors, flows, networks
from aef_tfp.bijectors.reuse import OncePerGraph, chain, one_evaluation
from aef_tfp.bijectors.vectors import VectorBijector
from aef_tfp.models import PixelMAF

tfb = tfp.bijectors

F64 = {"dtype": "float64"}


def gaussian_conditioner(inputs, outputs, seed):
    """A small nonlinear (loc, scale) network as a plain function."""
    rng = np.random.default_rng(seed)
    w_loc, w_scale = rng.normal(size=(2, inputs, outputs))

    def conditioner(x):
        return tf.tanh(x @ w_loc), tf.nn.softplus(x @ w_scale) + 0.1

    return conditioner


def image_mask():
    return bijectors.center_mask((4, 4, 2), 5)


# name -> (bijector or flow, shape of one example's base value(s), event_ndims)
CASES = {
    "pixel_logit": (lambda rng: bijectors.PixelLogit(1e-6), (3, 2, 1), 3),
    "pixel_logit_colour": (lambda rng: bijectors.PixelLogit(0.05), (3,), 1),
    "pixel_logit_plain": (lambda rng: bijectors.PixelLogit(0.0), (3,), 1),
    "partition": (lambda rng: bijectors.Partition(image_mask()), [(5,), (27,)], [1, 1]),
    "decoder_coupling": (
        lambda rng: bijectors.decoder_coupling(gaussian_conditioner(2, 4, 0)),
        [(2,), (4,)],
        [1, 1],
    ),
    "encoder_coupling": (
        lambda rng: bijectors.encoder_coupling(gaussian_conditioner(4, 2, 1)),
        [(2,), (4,)],
        [1, 1],
    ),
    "act_norm_vector": (lambda rng: perturb(flows.ActNorm(3, **F64), rng), (3,), 1),
    "act_norm_image": (lambda rng: perturb(flows.ActNorm(2, **F64), rng), (3, 2, 2), 3),
    "identity": (lambda rng: flows.Identity(**F64), (3,), 1),
    "reverse": (lambda rng: flows.Reverse(4, **F64), (4,), 1),
    "pixel_squash": (lambda rng: flows.PixelSquash(1e-3, **F64), (2, 2, 1), 3),
    "autoregressive": (
        lambda rng: perturb(flows.Autoregressive(4, 9, **F64), rng),
        (4,),
        1,
    ),
    "maf_1": (lambda rng: perturb(flows.MAF(1, 2, 7, **F64), rng), (1,), 1),
    "maf_2": (lambda rng: perturb(flows.MAF(2, 2, 7, **F64), rng), (2,), 1),
    # More entries than hidden units: some degrees have no unit.
    "maf_wide": (lambda rng: perturb(flows.MAF(7, 1, 4, **F64), rng), (7,), 1),
    "iaf": (
        lambda rng: perturb(flows.IAF(3, num_layers=2, hidden_units=7, **F64), rng),
        (3,),
        1,
    ),
    "inverted": (
        lambda rng: flows.Inverted(perturb(flows.ActNorm(3, **F64), rng), **F64),
        (3,),
        1,
    ),
    "stack": (
        lambda rng: perturb(
            flows.Stack(
                [flows.PixelSquash(0.01, **F64), flows.ActNorm(1, **F64)], **F64
            ),
            rng,
        ),
        (2, 2, 1),
        3,
    ),
}


FLOW_CLASSES = {
    value
    for value in vars(flows).values()
    if isinstance(value, type) and issubclass(value, flows.Flow)
} - {flows.Flow}


@pytest.fixture(params=CASES)
def case(request, rng):
    build, shapes, event_ndims = CASES[request.param]
    made = build(rng)
    bijector = made if isinstance(made, tfb.Bijector) else made.bijector
    if isinstance(shapes, list):
        base = [tf.constant(rng.normal(size=(6, *shape))) for shape in shapes]
    else:
        base = tf.constant(rng.normal(size=(6, *shapes)))
    return bijector, base, event_ndims


def data_event_ndims(bijector, base_event_ndims):
    return bijector.forward_event_ndims(base_event_ndims)


def test_every_flow_and_bijector_is_in_the_table():
    exercised = set()

    def visit(obj):
        exercised.add(type(obj))
        for part in (*getattr(obj, "flows", ()), getattr(obj, "flow", None)):
            if part is not None:
                visit(part)

    for build, _, _ in CASES.values():
        made = build(np.random.default_rng(0))
        visit(made)
        if not isinstance(made, tfb.Bijector):
            visit(made.bijector)
    assert exercised >= FLOW_CLASSES
    assert {
        bijectors.PixelLogit,
        bijectors.Partition,
        bijectors.PairCoupling,
        bijectors.MaskedAutoregressive,
    } <= exercised


def test_both_directions_are_finite_and_undo_each_other(case, rng):
    bijector, base, event_ndims = case
    # Points on the data's side that no earlier call has seen.
    other = tf.nest.map_structure(lambda x: tf.constant(rng.normal(size=x.shape)), base)
    data = fresh(bijector.forward(other))
    assert_bijective_and_finite(bijector, base, data, event_ndims)


# name -> (bijector or flow of one number, number of its event axes, where to look)
SCALARS = {
    "pixel_logit": (lambda rng: bijectors.PixelLogit(1e-6), 0, (-10.0, 10.0)),
    # Beyond, pixel values are clipped.
    "pixel_logit_colour": (lambda rng: bijectors.PixelLogit(0.05), 0, (-2.9, 2.9)),
    "pixel_logit_plain": (lambda rng: bijectors.PixelLogit(0.0), 3, (-10.0, 10.0)),
    "act_norm": (lambda rng: perturb(flows.ActNorm(1, **F64), rng), 1, (-3.0, 3.0)),
    "identity": (lambda rng: flows.Identity(**F64), 0, (-3.0, 3.0)),
    "reverse": (lambda rng: flows.Reverse(1, **F64), 1, (-3.0, 3.0)),
    "pixel_squash": (lambda rng: flows.PixelSquash(1e-3, **F64), 0, (-6.0, 6.0)),
    "autoregressive": (
        lambda rng: perturb(flows.Autoregressive(1, 7, **F64), rng),
        1,
        (-3.0, 3.0),
    ),
    "maf": (lambda rng: perturb(flows.MAF(1, 2, 7, **F64), rng), 1, (-3.0, 3.0)),
    "inverted": (
        lambda rng: flows.Inverted(perturb(flows.MAF(1, 2, 7, **F64), rng), **F64),
        1,
        (-3.0, 3.0),
    ),
    "stack": (
        lambda rng: perturb(
            flows.Stack(
                [flows.PixelSquash(0.01, **F64), flows.ActNorm(1, **F64)], **F64
            ),
            rng,
        ),
        3,
        (-3.0, 3.0),
    ),
}


@pytest.mark.parametrize("name", SCALARS)
def test_log_dets_of_one_number_are_slopes(name, rng):
    build, event_ndims, (lower, upper) = SCALARS[name]
    made = build(rng)
    bijector = made if isinstance(made, tfb.Bijector) else made.bijector
    assert_scalar_congruency(bijector, lower, upper, event_ndims)


def test_every_flow_is_looked_at_in_one_dimension():
    made = [build(np.random.default_rng(0)) for build, _, _ in SCALARS.values()]
    assert {type(one) for one in made} >= FLOW_CLASSES


class Wrong(tfb.Bijector):
    """x -> 2 x, or what is asked for in place of it."""

    def __init__(self, **instead):
        super().__init__(forward_min_event_ndims=0)
        two = tf.constant(2.0, tf.float64)
        self._functions = {
            "forward": lambda x: two * x,
            "inverse": lambda y: y / two,
            "forward_log_det": lambda x: tf.math.log(two),
            "inverse_log_det": lambda y: -tf.math.log(two),
            **instead,
        }

    def _forward(self, x):
        return self._functions["forward"](x)

    def _inverse(self, y):
        return self._functions["inverse"](y)

    def _forward_log_det_jacobian(self, x):
        return self._functions["forward_log_det"](x)

    def _inverse_log_det_jacobian(self, y):
        return self._functions["inverse_log_det"](y)


NO_LOG = tf.constant(0.0, tf.float64)


@pytest.mark.parametrize(
    ("instead", "message"),
    [
        ({"inverse": lambda y: y / 3.0}, "forward and back"),
        ({"forward_log_det": lambda x: NO_LOG}, "log-determinants of forward and"),
        ({"inverse": lambda y: y / 0.0}, "forward is not finite"),
    ],
)
def test_what_is_not_bijective_is_found(instead, message):
    x = tf.constant([0.5, 1.0, 2.0], tf.float64)
    assert_bijective_and_finite(Wrong(), x, fresh(x), 0)
    with pytest.raises(AssertionError, match=message):
        assert_bijective_and_finite(Wrong(**instead), x, fresh(x), 0)


@pytest.mark.parametrize(
    ("instead", "message"),
    [
        ({"forward": tf.abs}, "not monotone"),
        ({"forward_log_det": lambda x: NO_LOG}, "log-determinant is not the slope"),
        ({"inverse_log_det": lambda y: NO_LOG}, "inverse density's integral"),
    ],
)
def test_what_is_not_a_slope_is_found(instead, message):
    assert_scalar_congruency(Wrong(), -1.0, 2.0)
    with pytest.raises(AssertionError, match=message):
        assert_scalar_congruency(Wrong(**instead), -1.0, 2.0)


def test_forward_log_det_is_the_jacobian_of_forward(case):
    bijector, base, event_ndims = case
    got = bijector.forward_log_det_jacobian(fresh(base), event_ndims)
    got = tf.broadcast_to(got, [6])
    forward = with_log_det(bijector.forward, as_graph=False)
    for i in range(2):
        example = tf.nest.map_structure(lambda x, i=i: x[i : i + 1], base)
        _, expected = forward(example)
        np.testing.assert_allclose(got[i], expected, rtol=1e-8, atol=1e-8)


def test_inverse_log_det_is_the_jacobian_of_inverse(case):
    bijector, base, event_ndims = case
    data = fresh(bijector.forward(base))
    got = bijector.inverse_log_det_jacobian(
        fresh(data), data_event_ndims(bijector, event_ndims)
    )
    got = tf.broadcast_to(got, [6])
    inverse = with_log_det(bijector.inverse, as_graph=False)
    for i in range(2):
        example = tf.nest.map_structure(lambda x, i=i: x[i : i + 1], data)
        _, expected = inverse(example)
        np.testing.assert_allclose(got[i], expected, rtol=1e-8, atol=1e-8)


def test_finite_far_from_the_origin(case):
    bijector, base, event_ndims = case
    far = tf.nest.map_structure(lambda x: 1e3 * x, base)
    data = bijector.forward(far)
    log_det = bijector.forward_log_det_jacobian(fresh(far), event_ndims)
    for value in (*tf.nest.flatten(data), log_det):
        assert np.isfinite(value).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("logit_lambda", [0.0, 1e-6, 0.05])
def test_pixel_logit_stays_inside_the_open_interval(dtype, logit_lambda):
    bijector = bijectors.PixelLogit(logit_lambda)
    x = bijector.forward(tf.constant([-1e3, -90.0, 0.0, 90.0, 1e3], dtype))
    assert (x.numpy() > 0.0).all()
    assert (x.numpy() < 1.0).all()
    for pixels in (x.numpy(), np.array([0.0, 1.0], dtype)):
        pixels = tf.constant(pixels)
        assert np.isfinite(bijector.inverse(pixels)).all()
        assert np.isfinite(bijector.inverse_log_det_jacobian(pixels, 0)).all()


@pytest.mark.parametrize("logit_lambda", [0.0, 1e-6, 0.05])
def test_pixel_logit_has_no_value_outside_and_a_slope_inside(logit_lambda):
    bijector = bijectors.PixelLogit(logit_lambda)
    # The last ones are what rounding leaves of levels, and what it has of them at most.
    inside = np.float32([0.0, 1e-30, 0.5, (255 + (1 - 2.0**-24)) / 256, 1.0])
    outside = np.float32([-1e-7, 1.0 + 2.0**-23, 255.0])
    x = tf.constant(np.concatenate([inside, outside]))
    for call in (bijector.inverse, lambda x: bijector.inverse_log_det_jacobian(x, 0)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            values = call(x)
        slopes = tape.gradient(values, x).numpy()
        np.testing.assert_array_equal(np.isnan(values), [False] * 5 + [True] * 3)
        assert np.isfinite(slopes).all()
        assert (slopes[2] != 0.0) == (call == bijector.inverse)


def test_a_distribution_has_no_density_of_integers(rng):
    model = PixelMAF((2, 2, 1), num_layers=1, hidden_units=4)
    x = rng.uniform(size=(3, 2, 2, 1)).astype("float32")
    x[1, 0, 0] = 7.0
    log_prob = model.distribution.log_prob(x).numpy()
    np.testing.assert_array_equal(np.isnan(log_prob), [False, True, False])
    assert np.isnan(model.distribution.log_prob(np.full_like(x, 9, np.uint8))).all()


@pytest.mark.parametrize("values", [np.array([0, 1]), tf.zeros([2], tf.bfloat16)])
@pytest.mark.parametrize("method", ["forward", "inverse"])
def test_pixel_logit_refuses_types_without_its_limits(values, method):
    bijector = bijectors.PixelLogit(0.05)
    for name in (method, f"{method}_log_det_jacobian"):
        with pytest.raises(ValueError, match="float32, float64 or float16, got"):
            getattr(bijector, name)(values)


def test_pixel_logit_is_equation_19():
    x = np.array([1e-4, 0.3, 0.5, 0.9999])
    p = 0.05 + 0.9 * x
    np.testing.assert_allclose(
        bijectors.PixelLogit(0.05).inverse(x), np.log(p / (1 - p)), rtol=1e-12
    )


def test_pixel_logit_keeps_precision_at_bright_pixels():
    # In float32, logit(lambda + (1 - 2 lambda) x) formed naively is off by 6 % of
    # lambda there, which is 0.06 nats.
    x = np.float32(1.0 - 2.0**-23)
    exact = 1e-6 + (1 - 2e-6) * np.float64(x)
    expected = np.log(exact) - np.log1p(-exact)
    np.testing.assert_allclose(
        bijectors.PixelLogit(1e-6).inverse(x), expected, rtol=1e-6
    )


@pytest.mark.parametrize("logit_lambda", [-0.1, 0.5, np.nan, "x"])
def test_pixel_logit_refuses_lambda_out_of_range(logit_lambda):
    with pytest.raises(ValueError, match=r"logit_lambda must lie in \[0, 0.5\), got"):
        bijectors.PixelLogit(logit_lambda)


def test_coupling_is_equations_4_and_5():
    def conditioner(x):
        return x[..., :1] + 1.0, 2.0 * tf.ones_like(x[..., :1])

    z, deviations = tf.constant([[3.0]]), tf.constant([[0.5]])
    _, shell = bijectors.decoder_coupling(conditioner).forward([z, deviations])
    np.testing.assert_allclose(shell, [[4.0 + 2.0 * 0.5]])
    u, shell = tf.constant([[0.5]]), tf.constant([[3.0]])
    z, _ = bijectors.encoder_coupling(conditioner).inverse([u, shell])
    np.testing.assert_allclose(z, [[4.0 + 2.0 * 0.5]])


def test_coupling_refuses_a_third_part():
    with pytest.raises(ValueError, match="transformed must be 0 or 1, got 2"):
        bijectors.PairCoupling(lambda x: (x, x), transformed=2)


@pytest.mark.parametrize("kind", ["center", "corner", "random"])
@pytest.mark.parametrize("event_shape", [(8, 8, 1), (7, 5, 3), (10,), (1, 9, 1)])
def test_partition_masks_have_the_count_asked_for(kind, event_shape):
    size = int(np.prod(event_shape))
    for latent_dim in range(1, size):
        mask = bijectors.partition_mask(kind, event_shape, latent_dim, seed=1)
        assert mask.shape == event_shape
        assert mask.sum() == latent_dim


def test_center_mask_is_a_spiral_of_whole_pixels():
    mask = bijectors.center_mask((6, 6, 2), 9 * 2)
    expected = np.zeros((6, 6), bool)
    expected[1:4, 1:4] = True  # a 3 x 3 square around pixel (2, 2)
    np.testing.assert_array_equal(mask, np.stack([expected] * 2, axis=-1))


@pytest.mark.parametrize(
    ("event_shape", "start"), [((8, 8, 1), (3, 3)), ((3, 5, 1), (0, 1)), ((7,), (2,))]
)
def test_center_mask_starts_where_files_have_it(event_shape, start):
    (first,) = np.argwhere(bijectors.center_mask(event_shape, 1))
    assert tuple(first[: len(start)]) == start


def test_corner_mask_starts_with_the_corners_of_each_channel():
    mask = bijectors.corner_mask((4, 5, 2), 6)
    corners = np.zeros((4, 5), bool)
    corners[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    np.testing.assert_array_equal(mask[..., 0], corners)
    assert mask[..., 1].sum() == 2
    assert not (mask[..., 1] & ~corners).any()


def test_random_mask_follows_its_seed():
    first, same, other = (
        bijectors.partition_mask("random", (8, 8, 1), 20, seed=seed)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("partition", "latent_dim", "message"),
    [
        ("center", 64, r"latent_dim must lie in \[1, 63\].*got 64"),
        ("center", 0, r"latent_dim must lie in \[1, 63\].*got 0"),
        ("center", 1.5, r"in \[1, 63\], an integer.*got 1.5"),
        ("middle", 8, "must be one of 'center', 'corner', 'random'.*got 'middle'"),
        (
            np.zeros((8, 8, 1)),
            8,
            r"boolean array of shape \(8, 8, 1\), got dtype float",
        ),
        (np.zeros((8, 8), bool), 8, r"got dtype bool and shape \(8, 8\)"),
        (np.eye(8, dtype=bool)[..., None], 7, "latent_dim = 7 True entries, got 8"),
    ],
)
def test_partition_mask_refuses(partition, latent_dim, message):
    with pytest.raises(ValueError, match=message):
        bijectors.partition_mask(partition, (8, 8, 1), latent_dim)


@pytest.mark.parametrize("latent_dim", [-1, 3, 9])
def test_masks_of_other_numbers_of_entries_are_refused(latent_dim):
    for build in (
        bijectors.center_mask,
        bijectors.corner_mask,
        lambda shape, size: bijectors.random_mask(shape, size, seed=0),
    ):
        with pytest.raises(ValueError, match=rf"in \[1, 2\].*got {latent_dim}"):
            build((3,), latent_dim)
    for seed in (-1, 0.5):
        with pytest.raises(ValueError, match=f"seed must be .* got {seed}"):
            bijectors.partition_mask("random", (3,), 1, seed=seed)


def test_copies_have_the_arguments_of_their_own(rng):
    mask = np.array([True, False, True])
    copy = bijectors.Partition(mask).copy(name="copy")
    np.testing.assert_array_equal(copy.mask, mask)
    flow = perturb(flows.Autoregressive(3, 4, **F64), rng).bijector
    x = tf.constant(rng.normal(size=(2, 3)))
    copied = flow.copy(name="copy")
    np.testing.assert_array_equal(copied.inverse(x), flow.inverse(x))
    assert copy.name == copied.name == "copy"
    for original in (
        perturb(flows.MAF(3, 2, 4, **F64), rng).bijector,
        VectorBijector(flow, lambda function, x: function(x)),
    ):
        copied = original.copy(name="copy")
        np.testing.assert_array_equal(copied.inverse(x), original.inverse(x))
        assert copied.name == "copy"
        assert type(copied) is type(original)


@pytest.mark.parametrize("mask", [np.ones(3, bool), np.zeros(3, bool), np.ones(3)])
def test_partition_refuses_masks_without_two_parts(mask):
    with pytest.raises(ValueError, match="mask must"):
        bijectors.Partition(mask)


def test_act_norm_normalizes_in_both_directions(rng):
    values = tf.constant(3.0 + 2.0 * rng.normal(size=(50, 4, 4, 2)))
    for adapt in (flows.adapt_inverse, flows.adapt_forward):
        out = adapt(flows.ActNorm(2, **F64), values).numpy()
        np.testing.assert_allclose(out.mean((0, 1, 2)), 0.0, atol=1e-12)
        np.testing.assert_allclose(out.std((0, 1, 2)), 1.0, atol=1e-12)


def test_what_does_not_fit_a_flow_is_told_in_one_line():
    x = tf.zeros([2, 3])
    flow = bijectors.MaskedAutoregressive(networks.MADE(3, 3, 4))
    for direction in (flow.forward, flow.inverse):
        with pytest.raises(ValueError, match=r"parameters \[..., 2\].*, 3\); let"):
            direction(x)
    with pytest.raises(ValueError, match="takes a list of flows, got a Reverse; give"):
        flows.Stack(flows.Reverse(3))
    for adapt in (flows.adapt_inverse, flows.adapt_forward):
        with pytest.raises(ValueError, match=r"one example or more, got .*\[0, 3\]"):
            adapt(flows.ActNorm(3), x[:0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_flows_in_half_precision_are_refused(dtype):
    for build in (flows.MAF, flows.ActNorm, networks.MADE):
        name = build.__name__
        message = f"^{name} computes log-densities, which .* than {dtype} has; build"
        with pytest.raises(ValueError, match=message):
            build(3, dtype=dtype)


def test_act_norm_leaves_a_constant_feature_finite():
    norm = flows.ActNorm(2, **F64)
    out = flows.adapt_inverse(norm, tf.constant([[1.0, 5.0], [3.0, 5.0]], tf.float64))
    np.testing.assert_allclose(out, [[-1.0, 0.0], [1.0, 0.0]])


@pytest.mark.parametrize("unit", [1e-30, 1e-7, 1e9])
def test_act_norm_normalizes_in_any_unit(unit, rng):
    values = np.float32(unit) * rng.normal([0.0, 3.0], size=(512, 2)).astype("float32")
    # What rounding makes of a constant, or of its mean, is no scale.
    constants = np.float32(unit) * np.tile(np.float32([0.1, 0.3]), [512, 1])
    constants[0, 1] = np.nextafter(constants[1, 1], np.float32(np.inf))
    values = np.concatenate([values, constants], axis=1)
    norm = flows.ActNorm(4)
    out = flows.adapt_inverse(norm, tf.constant(values)).numpy()
    np.testing.assert_allclose(out[:, :2].mean(0), 0.0, atol=1e-4)
    np.testing.assert_allclose(out[:, :2].std(0), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(norm.log_scale.numpy()[2:], 0.0)


@pytest.mark.parametrize("adapt", [flows.adapt_inverse, flows.adapt_forward])
@pytest.mark.parametrize("kind", ["maf", "iaf"])
def test_adapting_a_stack_returns_what_its_bijector_then_gives(kind, adapt, rng):
    flow = perturb(flows.get(kind, 3, dtype="float64"), rng, scale=0.02)
    values = tf.constant(rng.normal(size=(64, 3)))
    out = adapt(flow, values)
    through = (
        flow.bijector.inverse
        if adapt is flows.adapt_inverse
        else (flow.bijector.forward)
    )
    np.testing.assert_allclose(out, through(fresh(values)), rtol=1e-9)
    # The layer at the end of the pass is an ActNorm where the pass is parallel.
    if (kind == "maf") == (adapt is flows.adapt_inverse):
        np.testing.assert_allclose(out.numpy().mean(0), 0.0, atol=1e-9)
        np.testing.assert_allclose(out.numpy().std(0), 1.0, atol=1e-9)


def test_a_flow_sees_new_weights_at_once(rng):
    norm = flows.ActNorm(2, **F64)
    bijector, x = norm.bijector, tf.constant(rng.normal(size=(3, 2)))
    before = bijector.inverse(x)
    norm.shift.assign([1.0, 1.0])
    np.testing.assert_allclose(norm.bijector.inverse(fresh(x)), before + 1.0)


def test_flow_identifiers():
    assert isinstance(flows.get("maf", 3), flows.MAF)
    assert isinstance(flows.get("iaf", 3).flow, flows.MAF)
    assert isinstance(flows.get("none", 3), flows.Identity)
    assert isinstance(flows.get(None, 3), flows.Identity)
    own = flows.ActNorm(3)
    assert flows.get(own, 3) is own


@pytest.mark.parametrize("identifier", ["glow", keras.layers.Dense(3), 7])
def test_flow_refuses_what_has_no_bijector(identifier):
    with pytest.raises(ValueError, match="A flow must be 'maf', 'iaf', 'none' or"):
        flows.get(identifier, 3)


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        (
            lambda: flows.ActNorm(1),
            r"'act_norm\w*' must take .* 3 entries, .* for 1 \(",
        ),
        (lambda: flows.MAF(2, 1, 4), "for 2 .MAF .* build it for 3"),
        (lambda: flows.Autoregressive(4, 4), "for 4 .Autoregressive"),
        (lambda: flows.Stack([flows.ActNorm(3), flows.Reverse(4)]), "for 4 .Reverse"),
        (lambda: flows.IAF(4, num_layers=1, hidden_units=4), "for 4 .MAF"),
        (lambda: flows.PixelSquash(), r"got a PixelSquash .* maps to \(0, 1\)"),
        (lambda: flows.Inverted(flows.PixelSquash()), "got a PixelSquash"),
        (lambda: np.zeros(3), "A flow must be 'maf', 'iaf', 'none' or"),
    ],
)
def test_flow_refuses_other_vectors(flow, message):
    with pytest.raises(ValueError, match=message) as error:
        flows.get(flow(), 3)
    assert "\n" not in str(error.value)


def test_an_affine_map_refuses_features_that_it_would_broadcast_to():
    bijector, x = flows.ActNorm(1).bijector, tf.zeros([2, 3])
    for call in (
        bijector.forward,
        bijector.inverse,
        lambda x: bijector.forward_log_det_jacobian(x, 1),
        lambda x: bijector.inverse_log_det_jacobian(x, 1),
    ):
        with pytest.raises(ValueError, match=r"axis of \[1\] entries.* got .*\[2, 3\]"):
            call(x)
    bijector = bijectors.FeatureAffine(lambda: (tf.zeros([1]), tf.zeros([3])))
    with pytest.raises(ValueError, match=r"\[1\] entries, and shifts \[3\], got"):
        bijector.inverse(tf.zeros([2, 1]))


def test_a_stack_of_the_users_may_do_anything_with_its_flows():
    class Halves(flows.Stack):
        @property
        def bijector(self):
            inner = super().bijector
            return tfb.Blockwise([tfb.Identity(), inner], block_sizes=[2, 2])

    own = Halves([flows.ActNorm(2)])
    assert flows.get(own, 4) is own


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        (lambda: flows.ActNorm(0), "size must be at least 1, got 0"),
        (lambda: flows.Reverse(2.0), "event_size must be an integer, got 2.0"),
        (lambda: flows.MAF(3, num_layers=-1), "num_layers must be at least 0, got -1"),
        (lambda: flows.MAF(3, num_layers=1.5), "num_layers must be an integer, got"),
        (lambda: flows.MAF(3, hidden_units=2.5), "hidden_units must be an integer"),
        (lambda: flows.MAF(3, num_blocks=-1), "num_blocks must be at least 0, got -1"),
        (lambda: flows.Autoregressive(3, 2.5), "hidden_units must be an integer"),
    ],
)
def test_flows_refuse_counts_that_are_none(flow, message):
    with pytest.raises(ValueError, match=message):
        flow()


@pytest.mark.parametrize(
    "flow",
    [
        lambda: flows.MAF(3, num_layers=2, hidden_units=8),
        lambda: flows.IAF(3, num_layers=2, hidden_units=8),
        lambda: flows.Stack([flows.PixelSquash(0.05), flows.ActNorm(3)]),
        lambda: flows.Stack([flows.Reverse(3), flows.Identity()]),
    ],
)
def test_flows_survive_their_config(flow, rng):
    original = perturb(flow(), rng, scale=0.1)
    config = keras.saving.serialize_keras_object(original)
    copy = keras.saving.deserialize_keras_object(config)
    copy.set_weights(original.get_weights())
    assert keras.saving.serialize_keras_object(copy) == config
    y = tf.constant(rng.uniform(0.1, 0.9, size=(4, 3)), tf.float32)
    np.testing.assert_array_equal(
        original.bijector.inverse(fresh(y)), copy.bijector.inverse(fresh(y))
    )


def test_samples_of_a_flow_with_small_scales_do_not_overflow(rng):
    # Every layer divides by up to 1e-3, d times in a row: float32 ends at 3e38.
    flow = flows.MAF(16, num_layers=4, hidden_units=32, dtype="float32")
    perturb(flow, rng, scale=1.0)
    base = tf.constant(rng.normal(size=(256, 16)), tf.float32)
    samples = flow.bijector.forward(base).numpy()
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() > 1e6  # far out, as they should be
    # What does not come near the limit is left as it is.
    flow = flows.MAF(3, num_layers=2, hidden_units=8, dtype="float64")
    perturb(flow, rng, scale=0.1)
    base = tf.constant(1e4 * rng.normal(size=(8, 3)))
    back = flow.bijector.inverse(fresh(flow.bijector.forward(base)))
    np.testing.assert_allclose(back, base, rtol=1e-6)


def test_a_conditioner_is_called_once_per_tensor_and_graph():
    calls = []

    def conditioner(x):
        calls.append(x)
        return 2.0 * x

    once = OncePerGraph(conditioner)

    @tf.function
    def twice(x):
        inner = tf.cond(x[0] > 0.0, lambda: once(x), lambda: x)
        y = tf.identity(x)
        return inner, once(x), once(x), once(y), once(x)

    for value in (1.0, -1.0):
        inner, *same = twice(tf.constant([value]))
        assert inner.numpy() == (2.0 if value > 0 else -1.0)
        assert [float(y[0]) for y in same] == [2 * value] * 4
    # In the branch; then x, y, and x again, of which the last call alone is kept.
    assert len(calls) == 4
    x = tf.constant([1.0])
    assert once(x) is not once(x)


def test_a_chain_is_hashed_without_its_parts():
    class Part(tfb.Shift):
        def __hash__(self):
            raise AssertionError("hashed")

    part = Part(tf.constant([1.0]))
    first, second = chain([part]), chain([part])
    assert hash(first) == hash(first)
    assert first == first
    assert first != second
    # What asks for the hash is TFP's cache, which still serves.
    bijector = chain([tfb.Scale(2.0), tfb.Shift(1.0)])
    x = tf.constant([3.0])
    y = bijector.forward(x)
    np.testing.assert_array_equal(y, [8.0])
    assert bijector.inverse(y) is not x  # weights may have changed meanwhile
    with one_evaluation():
        assert bijector.inverse(bijector.forward(x)) is x
