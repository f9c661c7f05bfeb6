"""Our peers beside the published implementations, on the same validation tasks of CIFAR-FS.

The references are not part of this project. Give the folder that holds clones of them:
`python benchmarks/peer_agreement.py FOLDER`, with `easy-few-shot-learning`, `Realistic_Transductive_Few_Shot`,
`PT-MAP`, `BAVARDAGE` and `sib_meta_learn` in it. A missing one is reported as null, with the reason.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from ebmeta import EpisodeSampler, TaskBatch
from lib import peers
from lib.classifier import ITERATIONS, last_probs, trained
from lib.common import ROOT, cifar_fs, read, write
from lib.released import module_in

WAYS, QUERIES, BATCH = 5, 15, 50
Reference = Callable[[Path, TaskBatch], Tensor]


def easyfsl(file: str, method: str, **options: Any) -> Reference:
    """Return the labels that a method of easyfsl predicts, one task at a time."""

    def run(folder: Path, batch: TaskBatch) -> Tensor:
        root = folder / "easy-few-shot-learning" / "easyfsl"
        for name, path in (("easyfsl", root), ("easyfsl.methods", root / "methods")):
            # The package's own __init__ imports torchvision, which the methods do not need.
            sys.modules.setdefault(name, types.ModuleType(name)).__path__ = [str(path)]
        model = getattr(importlib.import_module(f"easyfsl.methods.{file}"), method)(**options)
        labels = []
        for sx, sy, qx in zip(batch.support_x, batch.support_y, batch.query_x, strict=True):
            model.process_support_set(sx, sy)
            labels.append(model(qx).argmax(-1))
        return torch.stack(labels)

    return run


def realistic(method: str, **options: Any) -> Reference:
    """Return the labels of TIM or alpha-TIM in the code of "Realistic evaluation of transductive few-shot learning"."""

    def run(folder: Path, batch: TaskBatch) -> Tensor:
        root = folder / "Realistic_Transductive_Few_Shot" / "src"
        for name, path in (("src", root), ("src.methods", root / "methods")):
            sys.modules.setdefault(name, types.ModuleType(name)).__path__ = [str(path)]
        module = importlib.import_module("src.methods.tim")
        with patch.object(module, "Logger"), patch.object(module, "tqdm", lambda x: x):
            model = getattr(module, method)(torch.nn.Identity(), "cpu", "", types.SimpleNamespace(**options))
            support, query = (torch.nn.functional.normalize(x, dim=2) for x in (batch.support_x, batch.query_x))
            model.init_weights(support, query, batch.support_y, batch.query_y)
            model.run_adaptation(support, query, batch.support_y, batch.query_y, support.shape[1] // WAYS)
            return model.get_preds(query)

    return run


def interleaved(batch: TaskBatch) -> tuple[Tensor, Tensor]:
    """Return support features and labels in the order of these codes: one row of every class, then the next."""
    order = batch.support_y[0].argsort(stable=True).view(WAYS, -1).T.flatten()
    return batch.support_x[:, order], batch.support_y[:, order]


def pt_map(folder: Path, batch: TaskBatch, power: float = 0.5) -> Tensor:
    """Return the labels of the script of PT-MAP's authors."""
    with module_in(folder / "PT-MAP", "test_standard") as script:
        support, labels = interleaved(batch)
        script.n_shot, script.n_ways, script.n_queries = support.shape[1] // WAYS, WAYS, QUERIES
        script.n_runs, script.n_lsamples = support.shape[:2]
        script.n_usamples = WAYS * QUERIES
        script.labels = torch.cat([labels, batch.query_y], 1)
        data = torch.pow(torch.cat([support, batch.query_x], 1) + 1e-6, power)
        data = script.centerDatas(script.scaleEachUnitaryDatas(script.QRreduction(data)))
        script.ndatas, script.n_nfeat = data, data.shape[2]
        model = script.GaussianModel(WAYS, 10)
        model.initFromLabelledDatas()
        script.MAP(0.2).loop(model, n_epochs=20)
        return model.getProbas()[:, script.n_lsamples :].argmax(-1)


def bavardage(**options: float) -> Reference:
    """Return the labels of the script of BAVARDAGE's authors, from their own preprocessing of the base classes."""
    setting = {"T_km": 10.0, "T_vb": 4.0, "clp": 5.0} | options

    def run(folder: Path, batch: TaskBatch) -> Tensor:
        with module_in(folder / "BAVARDAGE", "bavardage") as script:
            support, labels = interleaved(batch)
            data, labels = torch.cat([support, batch.query_x], 1), torch.cat([labels, batch.query_y], 1)
            base, sizes = base_classes().flatten(0, 1), [len(x) for x in base_classes()]
            with (
                patch.object(script.FSLTask, "loadDataSet"),
                patch.object(script.FSLTask, "GenerateRunSet", lambda cfg: (data, labels)),
                patch.object(script, "load_trainset", lambda path: (base, sizes)),
                patch("builtins.print"),
            ):
                shots = support.shape[1] // WAYS
                ds = script.ds = script.getRunSet(shots, WAYS, QUERIES, len(data), preprocess="MESV")
            first = script.SimpleWMask(ds).soft_km(ds.data, T=setting["T_km"], nIter=5)
            scale = ds.e_Swb_Udata.pow(-0.5).clamp(max=setting["clp"])
            cluster = script.lib.VB_IsoGM(ds, scale, 1 / setting["T_vb"])
            model = script.lib.VB_EM(ds, mixtureModel=script.lib.VB_SymDirMM(ds), clusterModel=cluster)
            return model.loop(ds.rdata_b, first, nIter=5)[:, ds.n_lsamples :].argmax(-1)

    return run


def base_classes() -> Tensor:
    """Return the features of the base classes, shape `(K, n, D)`."""
    sampler = cifar_fs("train")
    return torch.from_numpy(sampler.X).view(len(sampler.classes), -1, sampler.X.shape[1])


def sib(steps: int, start: peers.SIB) -> Reference:
    """Train the released classifier from the parameters of `start` on our training tasks, and return its labels."""
    trained: list[Any] = []

    def train(folder: Path, shots: int) -> Any:
        with module_in(folder / "sib_meta_learn", "sib") as script:
            net = script.ClassifierSIB(WAYS, start.features, start.refinements)
        source = start.network
        pairs = [(net.bias, source.bias), (net.scale_cls, source.scale), (net.wnLayerFavg.weight, source.diagonal)]
        pairs += zip(net.dni.parameters(), source.gradient.parameters(), strict=True)
        with torch.no_grad():
            for to, value in pairs:
                to.copy_(value)
        optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9, weight_decay=5e-4, nesterov=True)
        for index in range(steps // 100):
            batch = sib_tasks(shots).sample(100, index)
            for t in range(100):
                sx, sy, qx = (x[t : t + 1] for x in (batch.support_x, batch.support_y, batch.query_x))
                optimizer.zero_grad()
                scores = net(sx, sy, qx, 1e-3).view(-1, WAYS)
                torch.nn.functional.cross_entropy(scores, batch.query_y[t]).backward()
                optimizer.step()
        return net

    def run(folder: Path, batch: TaskBatch) -> Tensor:
        if not trained:
            trained.append(train(folder, batch.support_x.shape[1] // WAYS))
        rows = zip(batch.support_x.unsqueeze(1), batch.support_y.unsqueeze(1), batch.query_x.unsqueeze(1), strict=True)
        return torch.stack([trained[0](sx, sy, qx, 1e-3)[0].argmax(-1) for sx, sy, qx in rows])

    return run


def sib_tasks(shots: int) -> EpisodeSampler:
    """Return the training tasks of both versions of SIB."""
    return cifar_fs("train", n_way=WAYS, n_shot=shots, n_query=QUERIES, seed=7)


def comparisons(shots: int, sib_steps: int) -> Iterator[tuple[str, peers.Peer, str, Reference]]:
    """Yield a label, our peer, the repository of the reference, and the reference with the same hyperparameters."""
    center, scatter = peers.base_statistics(base_classes())
    fsl, real = "easy-few-shot-learning", "Realistic_Transductive_Few_Shot"

    def ours(name: str, setting: Any = "published", **more: Any) -> peers.Peer:
        return peers.make(name, setting, center, scatter, **more)

    unit = {"feature_normalization": 2.0}
    yield "prototypes", ours("prototypes"), fsl, easyfsl("simple_shot", "SimpleShot")
    cl2n = easyfsl("simple_shot", "SimpleShot", feature_centering=center, **unit)
    yield "simpleshot", ours("simpleshot"), fsl, cl2n
    yield "bd_cspn", ours("bd_cspn"), fsl, easyfsl("bd_cspn", "BDCSPN")
    yield "laplacianshot", ours("laplacianshot"), fsl, easyfsl("laplacian_shot", "LaplacianShot", **unit)
    yield "tim", ours("tim"), fsl, easyfsl("tim", "TIM")
    chosen = {"fine_tuning_lr": 0.1, "temperature": 5.0, "cross_entropy_weight": 0.3, "conditional_entropy_weight": 0.5}
    yield "tim_chosen", ours("tim", "balanced"), fsl, easyfsl("tim", "TIM", **chosen)
    authors = {"metric": "euclidean", "steps": 150, "temperature": 15.0, "support": 0.1}
    options = {"temp": 15, "loss_weights": [0.1, 1.0, 0.1], "lr_tim": 1e-4, "iter": 150}
    yield "tim_authors", ours("tim", **authors), real, realistic("TIM_GD", **options)
    options = {"temp": 15, "loss_weights": [1.0, 1.0, 1.0], "lr_alpha_tim": 1e-4, "iter": 1000}
    options |= {"entropies": ["Shannon", "Alpha", "Alpha"], "alpha_values": None, "use_tuned_alpha_values": True}
    yield "alpha_tim", ours("alpha_tim"), real, realistic("ALPHA_TIM", **options)
    yield "pt_map", ours("pt_map"), "PT-MAP", pt_map
    yield "pt_map_chosen", ours("pt_map", "balanced"), "PT-MAP", partial(pt_map, power=1.0)
    yield "bavardage", ours("bavardage"), "BAVARDAGE", bavardage()
    yield "bavardage_chosen", ours("bavardage", "balanced"), "BAVARDAGE", bavardage(T_vb=500.0)
    trained = peers.SIB()
    trained.train(sib_tasks(shots), steps=sib_steps)
    yield "sib_same_parameters", trained, "sib_meta_learn", sib(0, trained)
    yield "sib_trained_apart", trained, "sib_meta_learn", sib(sib_steps, peers.SIB())


def origin(folder: Path, name: str) -> str:
    """Return the repository and the commit of a reference, or its folder alone."""
    done = subprocess.run(["git", "-C", str(folder / name), "rev-parse", "HEAD"], capture_output=True, text=True)
    marker = folder / name / "COMMIT"
    return f"{name}@{(marker.read_text() if marker.is_file() else done.stdout).strip() or 'unknown'}"


def compare(ours: peers.Peer, reference: Reference, folder: Path, batches: list[TaskBatch]) -> dict[str, Any]:
    """Return accuracies, in percent, of both, and how often they agree."""
    truth = torch.cat([b.query_y for b in batches])
    clock = time.process_time()
    mine = torch.cat([ours(b.support_x, b.support_y, b.query_x, WAYS).argmax(-1) for b in batches])
    accuracy = round(100 * float((mine == truth).float().mean()), 3)
    result: dict[str, Any] = {"accuracy": accuracy, "cpu_ms_per_task": _milliseconds(clock, truth)}
    try:
        clock = time.process_time()
        theirs = torch.cat([reference(folder, b) for b in batches])
        result["reference_cpu_ms_per_task"] = _milliseconds(clock, truth)
    except (ImportError, FileNotFoundError, AttributeError, RuntimeError) as error:
        return result | {"reference": None, "reason": f"{type(error).__name__}: {error}"}
    published = round(100 * float((theirs == truth).float().mean()), 3)
    result |= {"reference": published, "difference": round(accuracy - published, 3)}
    return result | {"equal_predictions": round(float((mine == theirs).float().mean()), 5)}


def _milliseconds(clock: float, truth: Tensor) -> float:
    return round(1000 * (time.process_time() - clock) / len(truth), 3)


def ebmeta_milliseconds(sampler: EpisodeSampler, tasks: int) -> float:
    """Return the processor time of the default model of few_shot_classification.py on the same tasks."""
    model, _ = trained("default", ITERATIONS, ROOT / "cache")
    batches = [sampler.sample(BATCH, i) for i in range(tasks // BATCH)]
    clock = time.process_time()
    for batch in batches:
        last_probs(model, batch)
    return _milliseconds(clock, torch.cat([b.query_y for b in batches]))


def settings(tasks: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return what the chosen hyperparameters are worth: accuracies, in percent, of the peers that need no training."""
    statistics = peers.base_statistics(base_classes())
    result: dict[str, dict[str, dict[str, float]]] = {}
    for regime, options in (("balanced", {"n_query": 15}), ("imbalanced", {"n_query": 75, "imbalance": 2.0})):
        for shots in (1, 5):
            sampler = cifar_fs("val", n_way=WAYS, n_shot=shots, seed=0, **options)
            batches = [sampler.sample(BATCH, i) for i in range(tasks // BATCH)]
            for name in [name for name, method in peers.METHODS.items() if not method.learns]:
                for setting in ("published", regime):
                    if setting == "published" and name == "alpha_tim":
                        continue  # a thousand steps a task: see its agreement on fewer tasks
                    peer = peers.make(name, setting, *statistics)  # type: ignore[arg-type]
                    hits = [(peer(b.support_x, b.support_y, b.query_x, WAYS).argmax(-1) == b.query_y) for b in batches]
                    key = "published" if setting == "published" else "chosen"
                    accuracy = round(100 * float(torch.cat(hits).float().mean()), 3)
                    result.setdefault(f"{regime}_{shots}shot", {}).setdefault(name, {})[key] = accuracy
    return result


def main() -> None:
    """Compare every peer at both shots and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--slow-tasks", type=int, default=300)
    parser.add_argument("--sib-steps", type=int, default=1000)
    parser.add_argument("--only", nargs="*")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable()
    result: dict[str, Any] = {"split": "val", "n_way": WAYS, "n_query": QUERIES, "sib_steps": arguments.sib_steps}
    if arguments.only:  # the other peers as they were
        result = read("peer_agreement.json")
    for shots in (1, 5):
        sampler = cifar_fs("val", n_way=WAYS, n_shot=shots, n_query=QUERIES, seed=0)
        result[f"ebmeta_{shots}shot"] = {"cpu_ms_per_task": ebmeta_milliseconds(sampler, arguments.tasks)}
        for label, ours, name, reference in comparisons(shots, arguments.sib_steps):
            if arguments.only and label not in arguments.only:
                continue
            slow = label.startswith(("laplacianshot", "tim", "alpha_tim", "sib"))
            tasks = arguments.slow_tasks if slow else arguments.tasks
            batches = [sampler.sample(BATCH, i) for i in range(tasks // BATCH)]
            entry = compare(ours, reference, arguments.folder, batches)
            entry |= {"tasks": tasks, "origin": origin(arguments.folder, name)}
            result[f"{label}_{shots}shot"] = entry
            print(label, shots, entry, flush=True)
    if not arguments.only:
        result["settings"] = settings(arguments.tasks)
    write("peer_agreement.json", result)


if __name__ == "__main__":
    main()
