"""Cases of the peer: PyTorch and `nflows`; asked by speed.py."""

import functools
import sys

import numpy as np
import torch
from pytorch_aef import AutoEncoderFlow
from settings import (
    CLIP_NORM,
    EVALUATED,
    NUM_IMPORTANCE,
    NUM_SAMPLES,
    PIPELINE_BATCHES,
    PRODUCT_SIZE,
    SETTINGS,
    STEPS,
    random_images,
)
from torch.utils.data import DataLoader, TensorDataset
from worker import Case, builders_of, serve


def channels_first(images):
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def built(name):
    """The model, its ActNorms initialized as both sides do it, and images."""
    setting = SETTINGS[name]
    torch.manual_seed(0)
    side, _, channels = setting.image_shape
    model = AutoEncoderFlow(
        side,
        channels,
        setting.latent_dim,
        networks=setting.networks,
        expansion=setting.model == "aef-linear",
        logit_lambda=setting.logit_lambda,
    )
    images = channels_first(random_images(setting))
    with torch.no_grad():
        model.loss(images[:512])
    # Without this, ActNorm asks a tensor at each step whether it is initialized, which
    # breaks a compiled graph.
    return model.eval(), images, setting


def stepper(name, compiled=False):
    """Returns a function that makes one training step, its model and setting."""
    model, images, setting = built(name)
    loss_of = torch.compile(model.loss) if compiled else model.loss
    optimizer = torch.optim.Adam(model.parameters(), setting.learning_rate)
    generator = torch.Generator().manual_seed(0)

    def step():
        chosen = torch.randint(len(images), [setting.batch_size], generator=generator)
        optimizer.zero_grad()
        loss = loss_of(images[chosen])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        return loss.item()

    return step, model


def train(name, compiled):
    step, model = stepper(name, compiled)

    def run():
        for _ in range(STEPS):
            step()

    parameters = sum(p.numel() for p in model.parameters())
    return Case(run, STEPS, {"parameters": parameters})


def sample(name):
    model, _, _ = built(name)
    return Case(lambda: model.sample(NUM_SAMPLES))


def evaluate(name):
    model, images, _ = built(name)

    def run():
        for part in images[:EVALUATED].split(40):
            model.marginal_log_prob(part, NUM_IMPORTANCE)

    return Case(run)


def pipeline(name):
    setting = SETTINGS[name]
    images = channels_first(random_images(setting, 60_000))
    loader = DataLoader(
        TensorDataset(images), setting.batch_size, shuffle=True, drop_last=True
    )

    def run():
        for i, _ in enumerate(loader, 1):
            if i == PIPELINE_BATCHES:
                return

    return Case(run, PIPELINE_BATCHES)


def products():
    left, right = (torch.rand(PRODUCT_SIZE, PRODUCT_SIZE) for _ in range(2))
    return Case(lambda: left @ right)


KINDS = {
    "train": functools.partial(train, compiled=False),
    "train compiled": functools.partial(train, compiled=True),
    "sample": sample,
    "evaluate": evaluate,
    "pipeline": pipeline,
}
CASES = {"products": products, **builders_of(KINDS, SETTINGS)}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--first-step"]:
        stepper(sys.argv[2])[0]()
        print("done", flush=True)
    else:
        serve(CASES)
