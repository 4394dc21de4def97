"""The rules, one module per operator family. Importing this package fills the table.

To add an operator: find its family, write one function under ``@rule(...)``, name every attribute of its schema.
"""

from onnxfc.rules import along_axis as along_axis
from onnxfc.rules import broadcast as broadcast
from onnxfc.rules import col2im as col2im
from onnxfc.rules import concat_split as concat_split
from onnxfc.rules import contraction as contraction
from onnxfc.rules import convolution as convolution
from onnxfc.rules import deform_conv as deform_conv
from onnxfc.rules import dynamic_scales as dynamic_scales
from onnxfc.rules import einsum as einsum
from onnxfc.rules import elementwise as elementwise
from onnxfc.rules import expand as expand
from onnxfc.rules import fallback as fallback
from onnxfc.rules import gather as gather
from onnxfc.rules import grid_sample as grid_sample
from onnxfc.rules import matmul as matmul
from onnxfc.rules import movement as movement
from onnxfc.rules import normalization as normalization
from onnxfc.rules import padding as padding
from onnxfc.rules import pooling as pooling
from onnxfc.rules import recurrent as recurrent
from onnxfc.rules import reduction as reduction
from onnxfc.rules import resampling as resampling
from onnxfc.rules import reshape as reshape
from onnxfc.rules import scatter as scatter
from onnxfc.rules import shape_ops as shape_ops
from onnxfc.rules import slice as slice
from onnxfc.rules import softmax as softmax
from onnxfc.rules import stft as stft
from onnxfc.rules import transpose as transpose
from onnxfc.rules import unpooling as unpooling
