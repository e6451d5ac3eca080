"""How many operations a training step needs, counted from the sizes of its layers."""

from settings import Setting

__all__ = ["step_operations"]

_FLOW_LAYERS, _FLOW_UNITS = 4, 256


def step_operations(setting: Setting) -> int:
    """Additions and multiplications of one step, those of layers' kernels alone.

    A kernel's entry is used once forward and twice backward, for the gradients of its
    input and of itself: six operations for each use in the forward pass. Masked kernels
    count as full ones. The small decoder's first layers are counted as they run, not as
    they are defined: on d + 1 points of their affine map in place of the batch.
    """
    side, _, channels = setting.image_shape
    d, batch = setting.latent_dim, setting.batch_size
    if setting.networks == "residual":
        uses = _residual(side, channels, d)
    else:
        uses = _convolutional(side, channels, d, (d + 1) / batch)
    uses += 2 * _FLOW_LAYERS * (3 * d * _FLOW_UNITS + 4 * _FLOW_UNITS**2)
    if setting.model == "aef-linear":
        uses += side**2 * channels * d
    return round(6 * batch * uses)


def _convolutional(side: int, channels: int, d: int, points: float) -> float:
    half, quarter = (side // 2) ** 2, (side // 4) ** 2
    features = 128 * quarter
    encoder = 9 * 64 * (half * channels + quarter * 128) + features * 2 * d
    first = points * (d * features + 16 * 64 * quarter * 128) + (d + 1) * 64 * half
    return encoder + first + 16 * 64 * half * channels


def _residual(side: int, channels: int, d: int) -> int:
    inner = d // 4

    def block(side, outputs=d):
        kernel = 9 if side > 2 else 1
        return side**2 * inner * (d + 2 * kernel * inner + outputs)

    sides = [side]
    while sides[-1] > 4:
        sides.append(sides[-1] // 2)
    encoder = side**2 * 9 * channels * d + 3 * block(1) + block(1, 2 * d)
    decoder = side**2 * d * channels + 4 * block(1)
    return encoder + decoder + 2 * sum(5 * block(one) for one in sides)
