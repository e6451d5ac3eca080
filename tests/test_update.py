"""One update of all weights does what Keras's optimizers do weight by weight."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_training_engine import FLOATS, largest_difference, plain, tiny, weights

from aef_tfp.callbacks import CheckpointStore
from aef_tfp.engine import update as update_module
from aef_tfp.engine.clipping import clipping
from aef_tfp.engine.update import FlatUpdate, Update, update_of

SHAPES = ((3, 2), (4,), (), (1, 2, 2))
optimizers = keras.optimizers
schedules = keras.optimizers.schedules

FLAT = {
    "SGD": lambda: optimizers.SGD(0.1),
    "SGD, Nesterov": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "SGD, decay": lambda: optimizers.SGD(0.1, weight_decay=0.1),
    "RMSprop": lambda: optimizers.RMSprop(0.1, momentum=0.5, centered=True),
    "Adam": lambda: optimizers.Adam(0.1),
    "Adam, AMSGrad": lambda: optimizers.Adam(0.1, amsgrad=True),
    "Adam, schedule": lambda: optimizers.Adam(schedules.ExponentialDecay(0.1, 2, 0.5)),
    "Adam, loss scale": lambda: optimizers.Adam(0.1, loss_scale_factor=64.0),
    "Adam, clipping by norm": lambda: optimizers.Adam(0.1, global_clipnorm=0.5),
    "Adam, clipping by value": lambda: optimizers.Adam(0.1, clipvalue=0.1),
    "Adam, accumulation": lambda: optimizers.Adam(0.1, gradient_accumulation_steps=3),
    "Adam, both": lambda: optimizers.Adam(
        0.1, gradient_accumulation_steps=2, global_clipnorm=0.5
    ),
    "Adam, EMA": lambda: optimizers.Adam(0.1, use_ema=True, ema_momentum=0.7),
    "SGD, EMA, accumulation": lambda: optimizers.SGD(
        0.1, use_ema=True, ema_momentum=0.7, gradient_accumulation_steps=2
    ),
    "AdamW": lambda: optimizers.AdamW(0.1, weight_decay=0.1),
    "Adadelta": lambda: optimizers.Adadelta(1.0),
    "Adagrad": lambda: optimizers.Adagrad(0.1),
    "Adamax": lambda: optimizers.Adamax(0.1),
    "Nadam": lambda: optimizers.Nadam(0.1),
    "Ftrl": lambda: optimizers.Ftrl(0.1, l1_regularization_strength=0.01),
    "Lion": lambda: optimizers.Lion(0.1, weight_decay=0.01),
}


def excluding():
    optimizer = optimizers.AdamW(0.1, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["weight_1"])
    return optimizer


class MyAdam(keras.optimizers.Adam):
    """A user's, which may do anything."""


BY_WEIGHT = {
    "EMA that overwrites": lambda: optimizers.Adam(
        0.1, use_ema=True, ema_overwrite_frequency=2
    ),
    "decay with exclusions": excluding,
    "clipping by weight": lambda: optimizers.Adam(0.1, clipnorm=0.1),
    "clipping of sums by weight": lambda: optimizers.Adam(
        0.1, clipnorm=0.1, gradient_accumulation_steps=2
    ),
    "LAMB": lambda: optimizers.Lamb(0.1),
    "Adafactor": lambda: optimizers.Adafactor(0.1),
    "Muon": lambda: optimizers.Muon(0.1),
    "schedule-free": lambda: optimizers.ScheduleFreeAdamW(0.1),
    "loss scaling": lambda: optimizers.LossScaleOptimizer(optimizers.Adam(0.1)),
    "a user's": lambda: MyAdam(0.1),
    "several": lambda: optimizers.MultiOptimizer(
        optimizers.OptimizerMap(
            optimizers.ScheduleFreeAdamW(0.1), {"weight_1": optimizers.SGD(0.1)}
        )
    ),
}


def made(dtypes=("float32",) * 4):
    rng = np.random.default_rng(0)
    return [
        keras.Variable(rng.normal(size=shape), name=f"weight_{i}", dtype=dtypes[i])
        for i, shape in enumerate(SHAPES)
    ]


def updated(update, variables, num_steps=6, missing=()):
    rng = np.random.default_rng(1)
    for _ in range(num_steps):
        gradients = [
            None if i in missing else tf.constant(rng.normal(size=shape), v.dtype)
            for i, (shape, v) in enumerate(zip(SHAPES, variables, strict=True))
        ]
        update(gradients, variables)
    return [v.numpy() for v in variables]


def in_one(update):
    def step(gradients, variables):
        with update.around(gradients, variables):
            update.apply(gradients, variables)

    return step


@pytest.fixture
def small_vectors(monkeypatch):
    """The four weights are in three vectors, one with two of them."""
    monkeypatch.setattr(update_module, "_VECTOR_SIZE", 5)


@pytest.mark.parametrize("name", [*FLAT, *BY_WEIGHT])
def test_it_is_kerass_update(name, small_vectors):
    optimizer = {**FLAT, **BY_WEIGHT}[name]
    variables = made()
    update = update_of(optimizer(), variables)
    assert isinstance(update, FlatUpdate) == (name in FLAT)
    if name in FLAT:
        assert [v.shape[0] for v in update.vectors] == [6, 5, 4]
    got = updated(in_one(update), variables)
    start, variables = weights_of(made()), made()
    expected = updated(optimizer().apply, variables)
    assert largest_difference(got, expected) < 1e-6
    assert largest_difference(got, start) > 1e-3


@pytest.mark.parametrize("name", [*FLAT, *BY_WEIGHT])
def test_it_begins_at_the_weights_of_the_first_step(name, small_vectors):
    # Which are others than those at compilation: loaded, or normalized by data.
    optimizer = {**FLAT, **BY_WEIGHT}[name]
    variables = made()
    for variable in variables:
        variable.assign(variable + 5.0)
    update = update_of(optimizer(), variables)
    for variable, value in zip(variables, weights_of(made()), strict=True):
        variable.assign(value)
    update.begin()
    got = updated(in_one(update), variables, num_steps=2)
    state = weights_of(update.optimizer.variables)
    update.begin()  # the second time leaves all as it is
    assert largest_difference(weights_of(update.optimizer.variables), state) == 0.0
    expected = updated(optimizer().apply, made(), num_steps=2)
    assert largest_difference(got, expected) < 1e-6


class Nameless(keras.optimizers.Adam):
    """A user's that cannot be made again."""

    def __init__(self, rate, own):
        super().__init__(rate)


def test_an_optimizer_that_cannot_be_made_again_begins_as_it_is():
    variables = made()
    update = update_of(Nameless(0.1, "own"), variables)
    update.begin()
    expected = updated(optimizers.Adam(0.1).apply, made())
    assert largest_difference(updated(in_one(update), variables), expected) < 1e-6


@pytest.mark.parametrize("missing", [(), (1,)])
@pytest.mark.parametrize("name", ["Adam, EMA", "SGD, EMA, accumulation"])
def test_averages_are_kerass(name, missing, small_vectors):
    variables, optimizer = made(), FLAT[name]()
    update = update_of(optimizer, variables)
    updated(in_one(update), variables, missing=missing)
    got = weights_of(optimizer._model_variables_moving_average)
    others, plain = made(), FLAT[name]()
    plain.build(others)
    with contextlib.ExitStack() as stack:
        if missing:
            told = pytest.warns(UserWarning, match="Gradients do not exist")
            stack.enter_context(told)
        updated(plain.apply, others, missing=missing)
    expected = weights_of(plain._model_variables_moving_average)
    assert largest_difference(got, expected) < 1e-6
    assert largest_difference(got, weights_of(variables)) > 1e-3
    # Another compilation goes on with them.
    update_of(optimizer, variables)
    again = weights_of(optimizer._model_variables_moving_average)
    assert largest_difference(got, again) == 0.0


def weights_of(variables):
    return [v.numpy() for v in variables]


@pytest.mark.parametrize("limit", ["global_clipnorm", "clipnorm", "clipvalue"])
@pytest.mark.parametrize("most", [np.inf, 1e39])
def test_a_limit_beyond_all_numbers_is_none(limit, most):
    gradients = [tf.constant([3.0, -4.0]), None]
    clip = clipping(optimizers.SGD(0.1, **{limit: most}), tf.constant(5.0))
    got, nothing = clip(gradients)
    np.testing.assert_array_equal(got, gradients[0])
    assert nothing is None


def test_every_elementwise_optimizer_of_keras_is_tried():
    """A new one of Keras has to be put on one of the two sides."""
    exported = {
        kind
        for kind in vars(keras.optimizers).values()
        if isinstance(kind, type) and issubclass(kind, keras.optimizers.Optimizer)
    }
    tried = {type(make()) for make in (*FLAT.values(), *BY_WEIGHT.values())}
    assert exported - tried <= {optimizers.Optimizer}


@pytest.mark.parametrize("name", ["Adam", "SGD", "SGD, decay", "Ftrl", "Lion"])
def test_weights_without_a_gradient_stay(name, small_vectors):
    variables = made()
    update = update_of(FLAT[name](), variables)
    got = updated(in_one(update), variables, missing=(1,))
    variables = made()
    optimizer = FLAT[name]()
    optimizer.build(variables)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        expected = updated(optimizer.apply, variables, missing=(1,))
    assert largest_difference(got, expected) < 1e-6


def test_weights_of_several_dtypes_or_with_constraints_are_kerass():
    several = made(dtypes=("float32", "float64", "float32", "float32"))
    assert not isinstance(update_of(optimizers.Adam(), several), FlatUpdate)
    constrained = made()
    constrained[0].constraint = keras.constraints.NonNeg()
    assert not isinstance(update_of(optimizers.Adam(), constrained), FlatUpdate)
    assert type(update_of(optimizers.Adam(), [])) is Update


def test_vectors_are_of_about_equal_sizes_and_in_order():
    sizes = [3, 200, 40, 1, 1, 5, 60, 300, 1, 0, 2]
    for most in (1, 50, 100, 300, 10_000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(update_module, "_VECTOR_SIZE", most)
            groups = update_module._groups(sizes)
        assert [i for group in groups for i in group] == list(range(len(sizes)))
        total = [sum(sizes[i] for i in group) for group in groups]
        assert max(total) < most + max(sizes) + 50
    assert len(groups) == 1


def test_an_optimizer_that_was_built_stays_as_it_was():
    variables, optimizer = made(), optimizers.Adam(0.1)
    optimizer.build(variables)
    assert not isinstance(update_of(optimizer, variables), FlatUpdate)
    flat = optimizers.Adam(0.1)
    first = update_of(flat, variables)
    again = update_of(flat, variables)
    assert again.vectors is first.vectors
    # Of other weights, also of equal sizes, the state would be another one's.
    for built in (optimizer, flat):
        for others in (made(), [*variables, keras.Variable(0.0)]):
            with pytest.raises(ValueError, match="was built for other weights, of"):
                update_of(built, others)


def test_an_optimizer_of_another_model_is_refused():
    adam = optimizers.Adam(1e-3, name="shared")
    model = plain(optimizer=adam)
    model.fit(FLOATS[:32], batch_size=16, verbose=0)
    with pytest.raises(ValueError, match="'shared' was built for other weights"):
        plain(optimizer=adam)
    model.compile(adam)
    assert int(adam.iterations.numpy()) == 2
    model.optimizer = optimizers.Adam(1e-3)
    with pytest.raises(ValueError, match="another optimizer than it was compiled with"):
        model.fit(FLOATS[:32], verbose=0)
    with pytest.raises(ValueError, match=r"compile needs an optimizer, got None\."):
        model.compile(None)
    for name in ("steps_per_execution", "max_skipped_updates"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            model.compile(**{name: 0})


def test_a_decay_that_is_set_later_counts():
    variables, optimizer = made(), optimizers.SGD(0.1)
    update = update_of(optimizer, variables)
    optimizer.weight_decay = 0.5
    got = updated(in_one(update), variables)
    others = made()
    expected = updated(optimizers.SGD(0.1, weight_decay=0.5).apply, others)
    assert largest_difference(got, expected) < 1e-6


# In a model.


def test_a_weight_that_was_set_between_steps_counts():
    model = plain()
    model.fit(FLOATS[:32], batch_size=16, verbose=0)
    for weight in model.trainable_weights:
        weight.assign(tf.ones_like(weight))
    model.optimizer.learning_rate = 0.0
    model.fit(FLOATS[:32], batch_size=16, verbose=0)
    assert all((w == 1.0).all() for w in weights(model))


def test_weights_that_were_loaded_after_compile_are_where_training_begins():
    # This optimizer keeps a copy of them, and goes on from there.
    model = plain(
        optimizer=optimizers.ScheduleFreeAdamW(0.0), run_eagerly=True, jit_compile=False
    )
    model.adapt(FLOATS)
    model.set_weights([weight + 0.1 for weight in model.get_weights()])
    before = weights(model)
    model.train_on_batch(FLOATS[:8])
    assert largest_difference(weights(model), before) < 1e-6


def test_a_layer_frozen_after_compile_stays():
    model = plain()
    model.fit(FLOATS[:32], batch_size=16, verbose=0)
    model.encoder.trainable = False
    before, others = weights(model.encoder), weights(model.decoder)
    frozen = [w.numpy() for w in model.encoder.weights]
    model.fit(FLOATS[:32], batch_size=16, verbose=0)
    assert not before
    for weight, old in zip(model.encoder.weights, frozen, strict=True):
        np.testing.assert_array_equal(weight.numpy(), old)
    assert largest_difference(weights(model.decoder), others) > 0.0
    model.encoder.trainable = True
    model.fit(FLOATS[:32], batch_size=16, verbose=0)
    assert largest_difference(weights(model.encoder), frozen) > 0.0


def test_a_layer_unfrozen_after_compile_wants_another_compilation():
    model = plain()
    model.encoder.trainable = False
    model.compile(optimizers.Adam(1e-3), jit_compile=False)
    model.encoder.trainable = True
    with pytest.raises(ValueError, match="Layers were unfrozen since the model was"):
        model.fit(FLOATS[:32], verbose=0)


@pytest.mark.parametrize("name", ["Adam", "Adam, EMA", "EMA that overwrites", "LAMB"])
def test_the_state_is_saved_and_resumed_exactly(name, tmp_path, monkeypatch):
    monkeypatch.setattr(update_module, "_VECTOR_SIZE", 100)
    make = {**FLAT, **BY_WEIGHT}[name]
    keras.utils.set_random_seed(0)
    kind = tiny if name == "Adam" else plain
    whole, part = kind(optimizer=make()), kind(optimizer=make())
    for model in (whole, part):
        model.fit(FLOATS, batch_size=32, shuffle=False, verbose=0)
    part.save(tmp_path / "part.keras")
    loaded = keras.saving.load_model(tmp_path / "part.keras")
    for model in (whole, loaded):
        model.fit(FLOATS, batch_size=32, shuffle=False, verbose=0)
    assert largest_difference(weights(whole), weights(loaded)) == 0.0


def test_a_checkpoint_with_another_state_is_refused_in_one_line(tmp_path):
    model = plain(optimizer=BY_WEIGHT["a user's"]())
    model.fit(FLOATS[:32], batch_size=32, verbose=0)
    CheckpointStore(tmp_path).write(model, 1, {})
    other = plain(optimizer=optimizers.Adam(0.1))
    with pytest.raises(ValueError, match="the state of another optimizer, or that of"):
        CheckpointStore(tmp_path).read(other)


class Warm(keras.optimizers.SGD):
    """A user's, with a state of which its configuration says nothing."""

    def build(self, variables):
        super().build(variables)
        self.extra = keras.Variable(5.0, name="extra")
        self.later = keras.Variable(0.0, name="later")

    def apply(self, *arguments):
        super().apply(*arguments)
        self.later.assign_add(self.extra)


def test_the_state_of_a_users_optimizer_stays():
    update = update_of(Warm(0.1), variables := made())
    update.optimizer.extra.assign(7.0)
    update.begin()
    updated(in_one(update), variables, num_steps=1)
    assert float(update.optimizer.later.numpy()) == 7.0


def frozen(model):
    model.encoder.trainable = False
    return model


def test_a_file_loads_whatever_was_frozen_in_between(tmp_path):
    model = plain()
    model.fit(FLOATS[:32], batch_size=16, verbose=0)
    model.save_weights(tmp_path / "trained.weights.h5")
    frozen(model).save(tmp_path / "frozen.keras")
    with pytest.warns(UserWarning, match="The state of optimizer 'adam"):
        loaded = keras.saving.load_model(tmp_path / "frozen.keras")
    other = frozen(plain())
    other.compile("adam", run_eagerly=True, jit_compile=False)
    with pytest.warns(UserWarning, match="layers were frozen, unfrozen or changed in"):
        other.load_weights(tmp_path / "trained.weights.h5")
    for got in (loaded, other):
        for weight, expected in zip(
            got.get_weights(), model.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(weight, expected)
    assert other.train_on_batch(FLOATS[:8]) is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clipnorm", 0.1),
        ("use_ema", True),
        ("gradient_accumulation_steps", 2),
        ("exclude_from_weight_decay", None),
        ("The constraint of encoder", None),
    ],
)
def test_settings_that_come_too_late_are_refused(name, value):
    model = plain(run_eagerly=True)
    if name.startswith("exclude"):
        model.optimizer.exclude_from_weight_decay(var_names=["bias"])
    elif name.startswith("The"):
        model.encoder.trainable_variables[0].constraint = keras.constraints.NonNeg()
    else:
        setattr(model.optimizer, name, value)
    with pytest.raises(ValueError, match=f"{name}.* was set after the model was comp"):
        model.train_on_batch(FLOATS[:8])


def test_the_state_crosses_between_replicas_and_one_device(mirrored, tmp_path):
    with mirrored.scope():
        several = tiny()
    several.adapt(FLOATS)
    single = tiny()
    single.adapt(FLOATS)
    batches = tf.data.Dataset.from_tensor_slices(FLOATS).batch(32)
    several.fit(batches, verbose=0)
    several.save(tmp_path / "several.keras")
    loaded = keras.saving.load_model(tmp_path / "several.keras")
    densities = several.log_prob(FLOATS), loaded.log_prob(FLOATS)
    np.testing.assert_allclose(*densities, rtol=1e-6)
    loaded.fit(batches, verbose=0)
    single.fit(batches, epochs=2, verbose=0)
    assert largest_difference(weights(single), weights(loaded)) < 1e-5
