"""Real brain slices that come with nilearn: the ICBM 152 T1 template and its tissue maps, with contrast made anew per slice.

The template (Fonov et al., NeuroImage 54, 2011; nonlinear symmetric 2009a, 1 mm) is one symmetric brain, averaged over 152
people: clean enough that a table from intensity to tissue scores 0.94. So each drawn slice gets its own contrast curve
(T1-, T2-, PD- or FLAIR-like order of tissues), bias field and noise: intensity alone no longer says what a pixel is,
shape and context do. What this measures is robustness to contrast on one anatomy, not transfer to other people.
"""

import functools

import numpy as np
from jaxtyping import Float, Float32, UInt8
from scipy.interpolate import PchipInterpolator

from common.errors import InputError

CLASSES = ("background", "grey", "white", "other")
COLOURS = ((0, 0, 0), (150, 150, 160), (245, 235, 200), (60, 120, 200))
BLOCKS = {"validation": ((56, 60), (112, 116)), "test": ((36, 40), (76, 80), (96, 100))}

SURE = 0.7  # a voxel that is three tenths fluid is other: at one half little more than a line of single voxels is left

# Intensities of the template (0 to 1) where each tissue lies, and the end of the scale.
LEVELS = np.array([0.0, 0.30, 0.64, 0.84, 1.0])
GAP = 0.2  # least difference of two tissues in brightness
# Kinds of contrast: fluid 0, grey 1 and white 2 from dark to bright.
CONTRASTS = {"t1": (0, 1, 2), "t2": (2, 1, 0), "flair": (0, 2, 1), "pd": (2, 0, 1)}


@functools.cache
def volumes(downsample: int = 1) -> tuple[Float32[np.ndarray, "z h w"], UInt8[np.ndarray, "z h w"]]:
    """T1 intensity in [0, 1] and class per voxel, axial slices of 192 x 160 (front up) over `downsample`, read-only.

    Classes: 0 outside the brain; 3 other (fluid, vessels, meninges) where the grey and white maps add up to less than
    SURE; else 1 grey or 2 white, whichever map is larger.
    """
    from nilearn import datasets  # here: it takes seconds to import, and only this source needs it

    def load(fetch):
        volume = fetch(resolution=1).get_fdata(dtype=np.float32)[18:178, 22:214, :160]
        volume = np.ascontiguousarray(
            volume.transpose(2, 1, 0)[:, ::-1]
        )  # [x, y, z] to [z, front to back, left to right]
        z, h, w = volume.shape
        return volume.reshape(z, h // downsample, downsample, w // downsample, downsample).mean((2, 4))

    image, grey, white = (
        load(fetch)
        for fetch in (datasets.load_mni152_template, datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    )
    brain = load(datasets.load_mni152_brain_mask) > 0.5
    tissue = np.where(grey + white < SURE, 3, np.where(grey > white, 1, 2))
    label = np.where(brain, tissue, 0).astype(np.uint8)
    image = np.where(brain, image, 0).astype(np.float32)
    image.setflags(write=False)
    label.setflags(write=False)
    return image, label


def contrast_curve(kind: str, rng: np.random.Generator) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Points (x, y) of a smooth curve of intensity with the tissues in the order of `kind`; outside stays dark.

    The three tissues lie in [GAP, 0.92], at least GAP apart.
    """
    order = CONTRASTS[kind]
    gaps = GAP + rng.dirichlet((1.5, 1.5, 1.5, 1.5))[:3] * (0.92 - 3 * GAP)
    rising = np.cumsum(gaps)
    tissue = np.empty(3)
    tissue[list(order)] = rising
    end = np.clip(tissue[2] + rng.uniform(-0.1, 0.1), 0.1, 1.1)
    x = np.linspace(0, 1, 256)
    return x, PchipInterpolator(LEVELS, [0.0, *tissue, end])(x)


def bias_field(rng: np.random.Generator, size: tuple[int, int], strength: float) -> Float[np.ndarray, "h w"]:
    """A smooth positive field, exp of a random polynomial of second degree with standard deviation `strength`."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij", sparse=True)
    a = rng.normal(size=5)
    field = a[0] * y + a[1] * x + a[2] * x * y + a[3] * y * y + a[4] * x * x
    return np.exp(strength * (field - field.mean()) / field.std())


def degrade(
    image: Float[np.ndarray, "h w"], kind: str, rng: np.random.Generator, *, noise: tuple[float, float], bias: float
) -> Float32[np.ndarray, "h w 1"]:
    """A slice under a new contrast, bias field and Rician noise (Gudbjartsson and Patz 1995), standardised."""
    x, y = contrast_curve(kind, rng)
    signal = np.interp(image, x, y) * bias_field(rng, image.shape, bias * rng.uniform())
    sigma = rng.uniform(*noise)
    real, imaginary = rng.normal(scale=sigma, size=(2, *image.shape))
    signal = np.hypot(signal + real, imaginary)
    return ((signal - signal.mean()) / signal.std())[..., None].astype(np.float32)


class BrainSource:
    """`draws` versions of each slice: example i is slice i % slices, and its contrast a function of (seed, i)."""

    def __init__(self, slices, *, seed: int, draws: int, downsample: int, noise: tuple[float, float], bias: float):
        self.slices, self.seed, self.draws = tuple(slices), seed, draws
        self.downsample, self.noise, self.bias = downsample, noise, bias

    def __len__(self) -> int:
        return len(self.slices) * self.draws

    def read(self, index: int) -> tuple[Float32[np.ndarray, "h w 1"], UInt8[np.ndarray, "h w"]]:
        """Image and label of example `index`."""
        images, labels = volumes(self.downsample)
        draw, place = divmod(index, len(self.slices))
        z = self.slices[place]
        kind = list(CONTRASTS)[(draw + place) % len(CONTRASTS)]  # in turn: every split has as many of each
        rng = np.random.default_rng((self.seed, z, draw))
        return degrade(images[z], kind, rng, noise=self.noise, bias=self.bias), labels[z]

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        image, label = self.read(index)
        return {"image": image, "label": label.astype(np.int32)}

    def size(self, index: int) -> tuple[int, int]:
        return 192 // self.downsample, 160 // self.downsample

    def name(self, index: int) -> str:
        draw = f"-{index // len(self.slices)}" if self.draws > 1 else ""
        return f"slice-{self.slices[index % len(self.slices)]:03d}{draw}"


HELD_OUT_SEED = 20_110_201  # contrasts of held-out slices never depend on the seed of a run


def brain_source(
    split: str,
    *,
    seed: int = 0,
    draws: int = 32,
    downsample: int = 1,
    first: int = 24,
    last: int = 136,
    spacing: int = 1,
    blocks=BLOCKS,
    guard: int = 2,
    noise: tuple[float, float] = (0.005, 0.02),
    bias: float = 0.15,
) -> BrainSource:
    """Axial slices (millimetres from the lowest) of one split: every `spacing`th of [first, last).

    blocks: split -> [from, to) of the slices held out for it; training takes what is left, except `guard` slices on both
    sides of each block, which nobody sees. Training slices come in `draws` contrasts; held-out slices in four, one of
    each kind, that are fixed. Raises InputError for an unknown split, blocks that touch each other's guard, and splits without slices.
    """
    if split != "train" and split not in blocks:
        raise InputError(f"split {split!r}: known: train, {', '.join(blocks)}")
    if downsample not in (1, 2, 4):
        raise InputError(f"config.data.downsample={downsample}: use 1, 2 or 4")
    held = [(name, *block) for name, ranges in blocks.items() for block in ranges]
    for name, start, stop in held:
        for other, from_, to in held:
            if (
                (other, from_, to) != (name, start, stop)
                and other != name
                and start < to + guard
                and from_ < stop + guard
            ):
                raise InputError(
                    f"config.data.blocks: {name} [{start}, {stop}) lies within {guard} slices of {other} [{from_}, {to})"
                )
    everything = range(first, last, spacing)
    if split == "train":
        slices = [z for z in everything if not any(start - guard <= z < stop + guard for _, start, stop in held)]
    else:
        slices = [z for z in everything if any(start <= z < stop for start, stop in blocks[split])]
    if not slices:
        raise InputError(
            f"config.data: no slice of {first} to {last} is left for {split}; change blocks, guard or spacing"
        )
    chosen = {"seed": seed, "draws": draws} if split == "train" else {"seed": HELD_OUT_SEED, "draws": len(CONTRASTS)}
    return BrainSource(slices, downsample=downsample, noise=tuple(noise), bias=bias, **chosen)
