"""Encoders: networks that map a batch to one feature vector per sample.

The factories `timm` and `onnx` are not listed, because the modules of these names hide them: import
`mezzotint.encoders.timm.timm`, or use `ForeignEncoder` for any callable.
"""

from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names

if TYPE_CHECKING:
    from mezzotint.encoders.audio_ntt import AudioNTT as AudioNTT
    from mezzotint.encoders.dgcnn import DGCNN as DGCNN
    from mezzotint.encoders.domain_agnostic import DomainAgnostic as DomainAgnostic
    from mezzotint.encoders.encoder import Encoder as Encoder
    from mezzotint.encoders.heads import mlp as mlp
    from mezzotint.encoders.onnx import ForeignEncoder as ForeignEncoder
    from mezzotint.encoders.pointnet import PointNet as PointNet
    from mezzotint.encoders.resnet import ResNet as ResNet
    from mezzotint.encoders.resnet import resnet8 as resnet8
    from mezzotint.encoders.resnet import resnet10 as resnet10
    from mezzotint.encoders.resnet import resnet18 as resnet18
    from mezzotint.encoders.resnet import resnet34 as resnet34
    from mezzotint.encoders.resnet import resnet50 as resnet50
    from mezzotint.encoders.resnet1d import ResNet1D as ResNet1D
    from mezzotint.encoders.rows import NGrams as NGrams
    from mezzotint.encoders.rows import TableMLP as TableMLP
    from mezzotint.encoders.saving import load_encoder as load_encoder
    from mezzotint.encoders.saving import save_encoder as save_encoder
    from mezzotint.encoders.vit import ViT as ViT

__getattr__, __dir__ = lazy_names(__name__, __file__)
