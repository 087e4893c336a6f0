"""Registration of ImageNet classifiers."""

from __future__ import annotations

from edgedeploy.core.errors import UsageError
from edgedeploy.core.spec import TaskSpec
from edgedeploy.models.registry import register_model
from edgedeploy.models.variants import Register

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def imagenet_classifier(
    paper: str,
    *,
    idle: tuple[str, ...] = (),
    classes: int = 1000,
    image_size: int = 224,
    crop: float = 0.875,
    fixed_size: bool = True,
    size_multiple: int = 1,
) -> Register:
    """Decorator of a classifier's builder with the option `classes`, and `image_size` for a fixed size.

    `crop` is the share of the shorter side in the center crop (224 of 256 pixels for ImageNet).
    """
    return register_model(
        input_shape=(1, 3, image_size, image_size),
        task=TaskSpec(
            name="classification",
            options={"mean": list(MEAN), "std": list(STD), "classes": classes, "crop": crop},
        ),
        outputs=("logits",),
        paper=paper,
        fixed_size=fixed_size,
        size_multiple=size_multiple,
        idle=idle,
    )


def require_multiple(image_size: int, multiple: int, model: str) -> None:
    """Raise UsageError unless `image_size` is a multiple of the network's total stride `multiple`."""
    if image_size < multiple or image_size % multiple:
        raise UsageError(
            f"{model} cannot be built for images of {image_size} x {image_size}",
            f"image_size must be a multiple of {multiple}",
        )
