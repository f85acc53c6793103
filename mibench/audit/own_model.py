"""A classifier that was trained elsewhere, attacked as it is."""

from torch import nn

from mibench.audit.foreign import Answer, Foreign, Way, fingerprint, make_network
from mibench.contracts import Classifier, Defense, DefenseParams, TrainContext
from mibench.errors import StageFailed


class OwnModel(Defense):
    """Nothing is trained: the weights are those of the file, or of what the factory returns."""

    class Params(DefenseParams):
        arch: str = ""
        factory: str = ""
        weights: str = ""
        fingerprint: str = ""
        mean: tuple[float, ...] = (0.0,)
        std: tuple[float, ...] = (1.0,)
        side: int = 0
        transform_input: bool | None = None
        head: str = ""
        answer: Answer = "logits"
        bgr: bool = False
        scale: float = 1.0

    def build(self, net: Classifier) -> Classifier:
        p = self.params
        network: nn.Module = make_network(p.arch, p.factory, self.track.num_classes, p.transform_input)
        way = Way(p.mean, p.std, p.side or None, p.bgr, p.head, p.answer, p.scale)
        return Foreign(network, self.track.num_classes, way)

    def train(self, ctx: TrainContext) -> Classifier:
        net = ctx.net
        assert isinstance(net, Foreign)
        if self.params.weights:
            ctx.load_weights(net.network, self.params.weights)
        if fingerprint(net.network) != self.params.fingerprint:
            raise StageFailed("The factory returned other weights than when the audit began.")
        return net
