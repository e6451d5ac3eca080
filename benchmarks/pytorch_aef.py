"""The peer: AEF (linear) and VAE in PyTorch, on the public classes of `nflows`.

Written for the comparison, with the layers and the sizes of the paper's appendix D, so
that both sides have the same number of parameters and do the same arithmetic. `nflows`
calls the direction from data to noise `forward`.
"""

import itertools
import math

import torch
from nflows import transforms
from torch import nn
from torch.nn import functional

__all__ = ["AutoEncoderFlow", "flow"]

_SCALE_FLOOR = 1e-5


def flow(size: int) -> transforms.Transform:
    """Four times (reversed order, MADE of width 256, ActNorm)."""
    layers = []
    for _ in range(4):
        layers += [
            transforms.ReversePermutation(size),
            transforms.MaskedAffineAutoregressiveTransform(size, hidden_features=256),
            transforms.ActNorm(size),
        ]
    return transforms.CompositeTransform(layers)


class ConvEncoder(nn.Module):
    """The paper's small encoder, with two linear heads."""

    def __init__(self, side, channels, latent_dim):
        super().__init__()
        size = 128 * (side // 4) ** 2
        self.features = nn.Sequential(
            nn.Conv2d(channels, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 128, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.loc, self.raw_scale = (
            nn.Linear(size, latent_dim),
            nn.Linear(size, latent_dim),
        )

    def forward(self, y):
        features = self.features(y)
        return self.loc(features), self.raw_scale(features)


def conv_decoder(side, channels, latent_dim):
    """The paper's small decoder."""
    small = side // 4
    return nn.Sequential(
        nn.Linear(latent_dim, 128 * small**2),
        nn.Unflatten(1, (128, small, small)),
        nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(64, channels, 4, stride=2, padding=1),
    )


class Bottleneck(nn.Module):
    """GELU, 1x1, GELU, 3x3, GELU, 3x3, GELU, 1x1, and a residual."""

    def __init__(self, width, side, num_blocks, outputs=None):
        super().__init__()
        inner = max(1, width // 4)
        kernel = 3 if side > 2 else 1
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(width, inner, 1),
                nn.Conv2d(inner, inner, kernel, padding=kernel // 2),
                nn.Conv2d(inner, inner, kernel, padding=kernel // 2),
                nn.Conv2d(inner, outputs or width, 1),
            ]
        )
        self.residual = outputs is None
        for layer in self.layers:
            nn.init.zeros_(layer.bias)
        self.layers[-1].weight.data *= math.sqrt(1 / num_blocks)

    def forward(self, x):
        y = x
        for layer in self.layers:
            y = layer(functional.gelu(y))
        return x + y if self.residual else y


def residual_sides(side):
    """Sides of the feature maps, e.g. 32, 16, 8, 4, 1."""
    sides = [side]
    while sides[-1] > 4:
        sides.append(sides[-1] // 2)
    return [*sides, 1]


class ResidualEncoder(nn.Module):
    """The paper's residual encoder for images whose side is a power of two."""

    def __init__(self, side, channels, latent_dim):
        super().__init__()
        sides = residual_sides(side)
        count = 5 * len(sides) - 1
        layers = [nn.Conv2d(channels, latent_dim, 3, padding=1)]
        for here, smaller in itertools.pairwise(sides):
            layers += [Bottleneck(latent_dim, here, count) for _ in range(5)]
            layers.append(nn.AvgPool2d(here // smaller))
        layers += [Bottleneck(latent_dim, 1, count) for _ in range(3)]
        layers.append(Bottleneck(latent_dim, 1, count, outputs=2 * latent_dim))
        self.layers = nn.Sequential(*layers, nn.Flatten())

    def forward(self, y):
        return self.layers(y).chunk(2, dim=1)


class ResidualDecoder(nn.Module):
    """The paper's residual decoder."""

    def __init__(self, side, channels, latent_dim):
        super().__init__()
        sides = residual_sides(side)[::-1]
        count = 5 * len(sides) - 1
        layers = [nn.Unflatten(1, (latent_dim, 1, 1))]
        layers += [Bottleneck(latent_dim, 1, count) for _ in range(4)]
        for here, larger in itertools.pairwise(sides):
            layers.append(nn.Upsample(scale_factor=larger // here))
            layers += [Bottleneck(latent_dim, larger, count) for _ in range(5)]
        self.layers = nn.Sequential(*layers)
        self.gain = nn.Parameter(torch.ones(1, latent_dim, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, latent_dim, 1, 1))
        self.last = nn.Conv2d(latent_dim, channels, 1)

    def forward(self, z):
        return self.last(self.gain * self.layers(z) + self.bias)


class AutoEncoderFlow(nn.Module):
    """AEF (linear), or the VAE of the same parts: then the core is noise.

    Args:
        side: Height and width of the images.
        channels: Channels of the images.
        latent_dim: Number of latents d.
        networks: `"conv"` or `"residual"`.
        expansion: Whether the core is a linear map of the image.
        logit_lambda: Lambda of eq. 19.
    """

    def __init__(
        self,
        side,
        channels,
        latent_dim,
        networks="conv",
        expansion=True,
        logit_lambda=1e-6,
    ):
        super().__init__()
        self.event_size = channels * side**2
        self.preprocessing = transforms.CompositeTransform(
            [
                transforms.PointwiseAffineTransform(
                    shift=logit_lambda, scale=1 - 2 * logit_lambda
                ),
                transforms.Logit(eps=1e-7),
                transforms.ActNorm(channels),
            ]
        )
        if networks == "residual":
            self.encoder = ResidualEncoder(side, channels, latent_dim)
            self.decoder = ResidualDecoder(side, channels, latent_dim)
        else:
            self.encoder = ConvEncoder(side, channels, latent_dim)
            self.decoder = conv_decoder(side, channels, latent_dim)
        self.raw_scale = nn.Parameter(torch.zeros(1, channels, side, side))
        self.expansion = nn.Linear(self.event_size, latent_dim) if expansion else None
        self.core_flow, self.prior_flow = flow(latent_dim), flow(latent_dim)
        self.latent_dim = latent_dim

    def loss(self, images):
        """Mean negative joint log-density, or ELBO, of uint8 images."""
        x = (images.float() + torch.rand(images.shape)) / 256
        y, log_det = self.preprocessing(x)
        if self.expansion is None:
            core = torch.randn(len(y), self.latent_dim)
            log_det = log_det - _log_normal(core)
        else:
            core = self.expansion(y.flatten(1))
        return -(self._log_prob(core, y, self.encoder(y)) + log_det).mean()

    def _log_prob(self, core, y, encoded):
        loc, raw_scale = encoded
        u, log_det = self.core_flow(core)
        scale = functional.softplus(raw_scale) + _SCALE_FLOOR
        z = loc + scale * u
        decoder_scale = functional.softplus(self.raw_scale) + _SCALE_FLOOR
        deviations = (y - self.decoder(z)) / decoder_scale
        z0, prior_log_det = self.prior_flow(z)
        return (
            log_det
            + scale.log().sum(1)
            + prior_log_det
            - decoder_scale.log().sum()
            + _log_normal(deviations.flatten(1))
            + _log_normal(z0)
        )

    @torch.no_grad()
    def sample(self, count):
        """Images in (0, 1) without deviations, `[count, channels, side, side]`."""
        z, _ = self.prior_flow.inverse(torch.randn(count, self.latent_dim))
        return self.preprocessing.inverse(self.decoder(z))[0]

    @torch.no_grad()
    def marginal_log_prob(self, images, num_samples, scale=0.05):
        """Importance sampling around the expansion's features."""
        x = (images.float() + torch.rand(images.shape)) / 256
        y, log_det = self.preprocessing(x)
        noise = torch.randn(num_samples, len(y), self.latent_dim)
        core = (self.expansion(y.flatten(1)) + scale * noise).flatten(0, 1)
        encoded = [part.repeat(num_samples, 1) for part in self.encoder(y)]
        log_prob = self._log_prob(core, y.repeat(num_samples, 1, 1, 1), encoded)
        log_proposal = _log_normal(noise) - self.latent_dim * math.log(scale)
        log_weights = log_prob.reshape(num_samples, -1) - log_proposal
        return log_weights.logsumexp(0) - math.log(num_samples) + log_det


def _log_normal(x):
    return -0.5 * (x**2 + math.log(2 * math.pi)).sum(-1)
