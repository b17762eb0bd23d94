"""Train an adapter in front of a classifier that answers HTTP requests and nothing else.

    python run.py

starts ``service.py`` in this process, or asks the one at ``--address``; writes adapter.png and results.csv beside this
file.
"""

import argparse
import csv
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import service as serving
import torch
from torch import Tensor, nn

import zograd as zo

HERE = Path(__file__).parent
BATCH, PAIRS = 32, 8
"""Pictures in a step, and pairs of probes for each: 17 x 32 rows a step, in two requests."""

SPREAD = 0.3
"""Of the probes, in shades from 0 to 1: a forest's answers are stairs, and this reaches over some."""


class Client:
    """The classifier as a function of a batch: one call, one request.

    Args:
        address: Of the service.
        timeout: Seconds without an answer after which a request is lost.
    """

    def __init__(self, address: str, timeout: float = 10.0) -> None:
        self.address, self.timeout = address, timeout
        self.requests = self.rows = 0

    def __call__(self, rows: Tensor) -> Tensor:
        """Probabilities, shape (n, 10), of pictures, shape (n, 64). It raises where there is no answer."""
        self.requests += 1
        self.rows += len(rows)
        body = json.dumps({"rows": [[round(value, 4) for value in row] for row in rows.tolist()]}).encode()
        request = urllib.request.Request(self.address, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                return torch.tensor(json.load(answer)["probabilities"], dtype=rows.dtype)
        except urllib.error.HTTPError as error:
            error.close()
            raise


def camera(images: Tensor) -> Tensor:
    """Digits as another camera shows them: a dim negative, a pixel to the right and blurred downwards."""
    pictures = images.reshape(-1, 8, 8)
    moved = 0.7 * pictures.roll(1, 2) + 0.3 * pictures.roll((1, 1), (1, 2))
    return (0.8 - 0.6 * moved).flatten(1)


def asked(client: Client, seed: int = 0) -> nn.Module:
    """The service as a layer; what is lost is asked again up to four times, after 0.1, 0.2, 0.4 and 0.8 seconds."""
    estimator = zo.SmoothedGradient(spread=SPREAD, samples=PAIRS)
    return zo.differentiable(zo.batched(client), estimator=estimator, on_failure=zo.retry(4), seed=seed)


def network(client: Client, seed: int = 0) -> nn.Sequential:
    """The adapter, a 3 x 3 kernel that lets everything through at first, and the service as a layer."""
    kernel = nn.Conv2d(1, 1, 3, padding=1, padding_mode="replicate")
    nn.init.dirac_(kernel.weight)
    nn.init.zeros_(kernel.bias)
    adapter = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), kernel, nn.Flatten())
    return nn.Sequential(adapter, asked(client, seed))


def loss_of(probabilities: Tensor, classes: Tensor) -> Tensor:
    """How much probability the wrong classes have; linear in them, for the answers jump."""
    return (1 - probabilities.gather(1, classes[:, None])).mean()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, classes: Tensor) -> float:
    """The share of right answers."""
    return float((model(images).argmax(1) == classes).float().mean())


def trained(client: Client, steps: int, rate: float = 0.1, seed: int = 0) -> Iterator[tuple[int, nn.Sequential, float]]:
    """Step after step: its number, the network, the loss before it."""
    x, y, _, _ = serving.shares()["camera"]
    images, classes = camera(torch.from_numpy(x).float()), torch.from_numpy(y).long()
    generator = torch.Generator().manual_seed(seed)
    model = network(client, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for step in range(1, steps + 1):
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        loss = loss_of(model(images[chosen]), classes[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield step, model, loss.item()


def show(model: nn.Sequential, plain: Tensor, rows: list[dict]) -> None:
    """What the camera sees, what the adapter makes of it, and the accuracy on the way."""
    seen = camera(plain)
    with torch.no_grad():
        adapted = model[0](seen)
    figure, axes = plt.subplots(4, 1, figsize=(6.5, 5.6), height_ratios=[1, 1, 1, 3.4], layout="constrained")
    titles = ("what the service knows", "what the camera shows it", "what the adapter makes of that")
    for panel, title, pictures in zip(axes[:3], titles, (plain, seen, adapted), strict=True):
        sheet = nn.functional.pad(pictures.reshape(-1, 8, 8), (1, 1, 1, 1), value=1.0)
        panel.imshow(torch.cat(list(sheet), 1), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        panel.set_title(title, fontsize=9, loc="left")
        panel.set_axis_off()
    axes[3].plot([row["requests"] for row in rows], [float(row["accuracy"]) for row in rows])
    axes[3].set(xlabel="requests", ylabel="accuracy, 360 unseen pictures", ylim=(0, 1))
    axes[3].spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "adapter.png", dpi=110)


def main() -> None:
    """Train the adapter and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", help="of a service that runs already")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rate", type=float, default=0.1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    _, _, x, y = serving.shares()["camera"]
    plain, classes = torch.from_numpy(x).float(), torch.from_numpy(y).long()
    with nullcontext() if given.address else serving.running() as service:
        address = given.address or service.address
        looking, client = asked(Client(address)), Client(address)  # the second counts
        known, untrained = accuracy(looking, plain, classes), accuracy(looking, camera(plain), classes)
        print(f"the service on pictures of its own kind: {known:.1%}; on the camera's: {untrained:.1%}", flush=True)
        rows, began = [], time.process_time()
        for step, model, loss in trained(client, given.steps, given.rate):
            if step == 1 or step % max(1, given.steps // 20) == 0:
                share = accuracy(nn.Sequential(model[0], looking), camera(plain), classes)
                rows.append(
                    {"step": step, "requests": client.requests, "rows": client.rows, "accuracy": f"{share:.4f}"}
                )
                print(f"step {step}: loss {loss:.3f}, accuracy {share:.1%}", flush=True)
        again = "" if service is None else f" ({service.refused} answers were 503, and those asked again)"
        seconds = time.process_time() - began
        print(
            f"{client.requests:,} requests{again}, {client.rows:,} rows, {seconds:.0f} s of processor time", flush=True
        )
    with (HERE / "results.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    show(model, plain[:14], rows)


if __name__ == "__main__":
    main()
