"""One of zfjax's own nets as a Model: its places are its layers, and what looks at them takes its fast paths."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from jax.tree_util import Partial
from jaxtyping import Array, Float, PyTree

from zfjax.models import cut, specs
from zfjax.models.convnet import ConvNet
from zfjax.models.model import Images, Model, Squares
from zfjax.models.places import Place
from zfjax.models.table import layer_table
from zfjax.transform.places.names import find

_KINDS: Mapping[type, str] = {
    specs.BatchNorm: "norm",
    specs.Conv: "conv",
    specs.Dense: "dense",
    specs.LRN: "norm",
    specs.MaxPool: "pool",
    specs.MeanPool: "mean",
    specs.ReLU: "relu",
    specs.Residual: "block",
}


class NetModel(Model):
    """A ConvNet with its variables; names are Caffe's, and `layer` and `split` are `zfjax.layer` and `zfjax.split`.

    >>> net = zfjax.zfnet(10, width=0.125, image_size=64)
    >>> variables = net.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    >>> model = NetModel(net, variables)
    >>> model.layers["conv2"].receptive_field
    (27, 27)
    """

    def __init__(
        self,
        net: ConvNet,
        variables: PyTree,
        *,
        classes: Sequence[str] | None = None,
        preprocess: Callable[[Squares], Images] | None = None,
    ):
        """`classes` and `preprocess` are those of `Model`."""
        side = net.image_size
        super().__init__(_Logits(net), (1, side, side, 3), weights=variables, classes=classes, preprocess=preprocess)
        self.net = net

    @property
    def variables(self) -> PyTree:
        """The net's variables."""
        return self._weights

    @functools.cached_property
    def layers(self) -> Mapping[str, Place]:
        """The net's layers by name, bottom first."""
        kinds = {spec.name: _KINDS.get(type(spec)) for spec in self.net.layers}
        return MappingProxyType(
            {
                row.name: Place(
                    row.name,
                    kind,
                    tuple(row.output) if row.receptive_field else (row.output.maps,),
                    row.parameters,
                    row.multiply_adds,
                    row.receptive_field,
                    row.total_stride,
                    row.offset,
                )
                for row in layer_table(self.net)
                if (kind := kinds[row.name])
            }
        )

    @property
    def parameters(self) -> int:
        """How many numbers all layers hold."""
        return sum(place.parameters for place in self.layers.values())

    @property
    def numbered_layers(self) -> tuple[str, ...]:
        """The last output of each of the net's layers 1, 2, …, without the classifier.

        The paper does not say which output of a layer its classifiers see. Here it is the last: rectified, and pooled
        and contrast-normalized if the layer is. For `zfjax.zfnet` that is norm1, norm2, relu3, relu4, pool5, relu6,
        relu7; for a ResNet it is pool1 and each block, with the last block averaged over positions.
        """
        names: list[str] = []
        for spec in self.net.layers:
            if isinstance(spec, specs.Conv | specs.Dense | specs.Residual):
                names.append(spec.name)
            elif names and not isinstance(spec, specs.Dropout):
                names[-1] = spec.name
        return tuple(names[:-1])

    @property
    def result(self) -> str:
        """The name of the net's last layer."""
        return self.net.layers[-1].name

    @property
    def logits(self) -> "NetModel":
        """The model itself."""
        return self

    @property
    def function(self) -> Partial:
        """The net, from images to logits."""
        return cut.layer(self.net, self.variables, self.result)

    def layer(self, name: str) -> Partial:
        """`zfjax.layer` of this net."""
        return cut.layer(self.net, self.variables, find(name, self.layers))

    def activations(self, names: Sequence[str]) -> Partial:
        """`zfjax.models.layers` of this net."""
        return cut.layers(self.net, self.variables, [find(name, self.layers) for name in names])

    def split(self, name: str) -> tuple[Partial, Partial]:
        """`zfjax.split` of this net."""
        return cut.split(self.net, self.variables, find(name, self.layers))


@dataclasses.dataclass(frozen=True)
class _Logits:
    net: ConvNet

    def __call__(self, variables: PyTree, images: Images) -> Float[Array, "n classes"]:
        return self.net.apply(variables, images)[0]
