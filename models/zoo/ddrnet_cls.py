"""DDRNet as it is pretrained: ImageNet classification.

The branches of layers/ddrnet_trunk.py end at 1/32 and 1/8; the second is halved twice and added to the first:
    logits = linear(mean(ReLU(conv1x1(ReLU(ReLU(low) + down5(ReLU(high)))))))
`load_trunk` loads such weights into the segmentation network. Parameter names are the official ones.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from edgedeploy.models.imagenet import imagenet_classifier
from edgedeploy.models.layers.common import conv_bn, initialize_kaiming
from edgedeploy.models.layers.ddrnet_trunk import PAPER, STAGES_23, STAGES_39, DualBranch, Stage, halve
from edgedeploy.models.variants import register_variants


@register_variants(
    imagenet_classifier(PAPER, fixed_size=False, size_multiple=8),
    ddrnet_23_slim_cls=(32, (2, 2), STAGES_23, 1024),
    ddrnet_23_cls=(64, (2, 2), STAGES_23, 2048),
    ddrnet_39_cls=(64, (3, 4), STAGES_39, 2048),
)
class DDRNetClassifier(DualBranch):
    """Classifier, (N, 3, H, W) -> logits (N, classes).

    Args:
        planes, blocks, stages: see DualBranch.
        width: channels of the global average pooling.
        classes: of the data set.
    """

    def __init__(
        self, planes: int, blocks: tuple[int, int], stages: tuple[Stage, ...], width: int, classes: int = 1000
    ) -> None:
        super().__init__(planes, blocks, stages, last_stride=1)
        self.down5 = halve(planes * 4, planes * 16, 2)
        self.last_layer = nn.Sequential(*conv_bn(planes * 16, width, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.linear = nn.Linear(width, classes)
        initialize_kaiming(self)

    def forward(self, image: Tensor) -> Tensor:
        low, high, _ = self.features(image)
        joined = F.relu(F.relu(low) + self.down5(F.relu(high)))
        return self.linear(self.last_layer(joined).flatten(1))  # type: ignore[no-any-return]
