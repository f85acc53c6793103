"""P2I-MI: prediction to image, an encoder from the target's scores to a generator's latents (Liu et al., ECCV 2024)."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, mse_loss

from mibench.contracts import Access, Attack, AttackContext, Oracle, PriorModel, Reconstruction
from mibench.errors import StageFailed
from mibench.nets.generator import Generator
from mibench.primitives.embedding import EmbeddingParams, fit_people, people_embedding
from mibench.primitives.evolution import log
from mibench.primitives.pool import PoolParams, TruncatedPool, score_pool, top_of_pool
from mibench.primitives.queries import in_chunks
from mibench.primitives.training import fit_student, pack, unpack
from mibench.random import Stream


def raised(p: Tensor, label: int, rise: float) -> tuple[Tensor, Tensor]:
    """Scores (n, K) aligned with ``label``: where p_y < 1 - ``rise``, p_y + ``rise``, the others scaled so that the sum
    stays 1. Their logarithms, and p_y (n,) as it is then, the weight of each row."""
    own = p[:, label]
    low = own < 1 - rise
    weight = torch.where(low, own + rise, own)
    q = p * torch.where(low, 1 - rise / (1 - own), 1)[:, None]
    q[:, label] = weight
    return log(q), weight


def ensemble(W: Tensor, weight: Tensor) -> Tensor:
    """sum_j a_j W_j / sum_j a_j: latents (n, R, num_ws, w_dim) with weights (n, R) -> (R, num_ws, w_dim)."""
    a = weight[..., None, None]
    return (a * W).sum(0) / a.sum(0)


class P2i(TruncatedPool, Attack):
    """An encoder E learns to draw x from the target's answer, G(E(log p(x))) = x, on images that the target takes for
    its classes. Then one pass: of class y G(mean of E over y's public images, their scores raised towards y)."""

    access = Access.SCORES
    effort = ("steps", "pool")
    deviations = (
        "E has two hidden layers and learns by Adam; released code's are transposed convolutions to an image that is "
        "compared with x too, then a face recogniser's layers, by Ranger.",
        "Beside pixels one embedding is compared, on the small tracks of the labelled public people; published are "
        "LPIPS, ArcFace and face parsing.",
        "Images are whole; released code chooses among fixed cut-outs.",
        "It gives each image that the track asks for: a class's best public images are dealt out to them in turn.",
        "Step 0 is the generated image that the target likes best; the published method starts from none.",
        "With a DCGAN prior there is no mapping network: w = z, in one layer.",
    )

    class Params(EmbeddingParams, PoolParams):
        truncation: float = Field(1.0, gt=0, description="psi, scale of the pool's latents")
        per_class: int = Field(10, ge=1, description="public images, and as many generated, for a class and an image")
        rise: float = Field(0.035, ge=0, lt=1, description="how much p_y is raised; not above 1 - rise")
        width: int = Field(512, ge=1, description="of E's hidden layers")
        steps: int = Field(77_500, ge=1, description="training steps of E (31 epochs of 2,500)")
        batch: int = Field(8, ge=2, description="half of it public, half generated images")
        lr: float = Field(1e-4, gt=0, description="times 0.1 after 10 and 20 of 31 parts of the steps")
        betas: tuple[float, float] = (0.95, 0.999)
        feature_weight: float = Field(0.2, ge=0, description="of 1 - cos of the embeddings, beside squared pixels")

    def skip(self) -> str | None:
        reason: str | None = self.params.lacking(self.track)
        return reason

    def encoder(self, prior: PriorModel, ctx: AttackContext) -> nn.Module:
        """E: log p (N, K) -> W (N, num_ws, w_dim), less the mean w."""
        G, width, layers = prior.generator, self.params.width, []
        for inputs in (ctx.track.num_classes, width):
            layers += [nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        last = nn.Linear(width, G.num_ws * G.w_dim)
        return nn.Sequential(*layers, last, nn.Unflatten(1, (G.num_ws, G.w_dim))).to(ctx.device)

    def prepare(self, oracle: Oracle, prior: PriorModel | None, ctx: AttackContext) -> dict[str, Tensor]:
        """E, ``public`` (N, K), the target's scores, and ``best`` (K, images), the pool's best for each class."""
        assert prior is not None
        p, G, images, pool = self.params, prior.generator, ctx.public.images, self.pool(prior, ctx)
        count = p.per_class * ctx.images_per_identity
        if count > min(len(images), len(pool)):
            raise StageFailed(f"{count} images per class were asked for, of {len(images)} and {len(pool)}.")
        with torch.no_grad(), oracle.phase("search"):
            real = in_chunks(oracle.scores, images)
        fake = score_pool(oracle, pool, G.synthesis, mirrored=False)
        first, second = (top_of_pool(scores, range(scores.shape[1]), count) for scores in (real, fake))
        f = people_embedding(ctx, p.casia_weights)
        f = f if p.casia_weights else fit_people(ctx, f, p.embedding_steps)
        E = self.encoder(prior, ctx)

        def loss(step: int, rng: Stream) -> Tensor:
            i, j = (best.flatten()[rng.integers(best.numel(), p.batch // 2)] for best in (first, second))
            with torch.no_grad():
                x = torch.cat([images[i], G.synthesis(pool[j]).clamp(0, 1)])
                seen = f(x)
            drawn = G.synthesis(E(log(torch.cat([real[i], fake[j]]))) + G.mean_w)
            return mse_loss(drawn, x) + p.feature_weight * (1 - cosine_similarity(f(drawn), seen)).mean()

        adam = torch.optim.Adam(E.parameters(), p.lr, p.betas)
        schedule = torch.optim.lr_scheduler.StepLR(adam, -(-10 * p.steps // 31), 0.1)
        fit_student(ctx, "encoder", E, p.steps, loss, adam, schedule)
        return {"public": real, "best": second[:, : ctx.images_per_identity].contiguous()} | pack(E=E)

    @torch.no_grad()
    def invert(
        self, oracle: Oracle, prior: PriorModel, labels: Sequence[int], ctx: AttackContext
    ) -> Iterator[Reconstruction]:
        ctx.check_labels(labels)
        p, G, pool, runs = self.params, prior.generator, self.pool(prior, ctx), ctx.images_per_identity
        E, scores = unpack(self.encoder(prior, ctx), ctx.artifact, "E"), ctx.artifact["public"]
        for y in labels:
            log_p, a = raised(scores[top_of_pool(scores, [y], p.per_class * runs)[0]], y, p.rise)
            W = ensemble((E(log_p) + G.mean_w).unflatten(0, (-1, runs)), a.unflatten(0, (-1, runs)))
            images, initial = (G.synthesis(w).clamp(0, 1) for w in (W, pool[ctx.artifact["best"][y]]))
            yield Reconstruction(y, images, initial, shown=ctx.shown(G, partial(Generator.synthesis, w=W)))
