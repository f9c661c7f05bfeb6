"""Training: it trains, resumes exactly, stops early, and refuses what it cannot use."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import class_tasks, close

import ebmeta
from ebmeta.model.units import in_units
from ebmeta.simulate.linear_gaussian import LinearGaussianTasks
from ebmeta.tasks.training_rows import TrainingRows
from ebmeta.training.loop import resolve_device


def blobs(seed: int = 0, *, spread: float = 0.7, classes: int = 3, **kwargs) -> ebmeta.EpisodeSampler:
    """Twelve Gaussian classes in eight dimensions; another number `classes` makes others."""
    rng = np.random.default_rng(classes)
    centres = rng.standard_normal((12, 8))
    y = np.repeat(np.arange(12), 40)
    X = centres[y] + spread * rng.standard_normal((len(y), 8))
    return ebmeta.EpisodeSampler(X, y, n_query=6, seed=seed, **kwargs)


def short(model, tasks, num_iterations=12, **kwargs):
    return ebmeta.fit(
        model, tasks, num_iterations, batch_size=4, device="cpu", progress=False, checkpoint_every=5, **kwargs
    )


def parameters(model) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


@pytest.mark.filterwarnings("ignore:tasks. training or validation has used:UserWarning")  # other tasks of its classes
@pytest.mark.parametrize(("kind", "drop"), [("residual", 0.7), ("mixture", 0.9)])  # steps of a mixture start well
def test_training_lowers_the_loss_and_refinement_learns(kind, drop):
    model = ebmeta.EmpiricalBayes.classifier(8, synthetic_gradient=kind)
    sources = blobs(seed=9), blobs(seed=9).with_unknown_proportions()
    untrained = [ebmeta.evaluate(model, tasks, 100, num_bootstrap=2)["nll"] for tasks in sources]
    run = ebmeta.fit(model, blobs(), 200, batch_size=8, learning_rate=5e-3, device="cpu", progress=False)
    assert run.history["loss"][-20:].mean() < run.history["loss"][:20].mean()
    for tasks, before in zip(sources, untrained, strict=True):
        after = ebmeta.evaluate(model, tasks, 100, num_bootstrap=2)["nll"]
        assert after[-1] < drop * before[-1]
        assert after[-1] < before[-1] - 0.1
        assert after[-1] < after[0] - 0.05
    assert run.model is model
    assert not model.training
    assert run.best_iteration == 200


def test_history_has_every_term():
    model = ebmeta.EmpiricalBayes.classifier(8, num_steps=2)
    run = short(model, blobs(), validation=blobs(seed=1, classes=4), validate_every=4, validation_tasks=10)
    assert repr(run).startswith("FitResult(best_iteration=")
    assert "\n" not in repr(run)
    history = run.history
    assert dict(history.sizes) == {"iteration": 12, "step": 3, "validation_iteration": 3}
    assert history["nll"].attrs["units"] == "nats per query"
    assert history["kl"].attrs["units"] == "nats per task"
    assert history["validation_iteration"].values.tolist() == [4, 8, 12]
    # loss = last step + half the mean of the others, of (nll per query + beta * kl per query)
    per_query = history["nll"] + model.beta * history["kl"] / 30
    expected = per_query.isel(step=-1) + 0.5 * per_query.isel(step=slice(0, -1)).mean("step")
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-5)


def test_the_same_seed_gives_the_same_run_and_leaves_global_state_alone(rng_untouched):
    runs = []
    for _ in range(2):
        model = ebmeta.EmpiricalBayes.classifier(8, synthetic_gradient="mixture")
        short(model, blobs())
        runs.append(parameters(model))
    other = ebmeta.EmpiricalBayes.classifier(8, synthetic_gradient="mixture")  # its predictions are drawn
    short(other, blobs(), seed=1)
    for name, value in runs[0].items():
        assert torch.equal(value, runs[1][name])
    assert any(not torch.equal(value, runs[0][name]) for name, value in other.state_dict().items())


def test_training_is_the_same_within_any_block_of_torch():
    found = []
    rounding = torch.autocast("cpu", dtype=torch.bfloat16)
    for around in (torch.enable_grad(), torch.no_grad(), torch.inference_mode(), rounding):
        model = ebmeta.EmpiricalBayes.classifier(8, 1)
        with around:
            short(model, blobs(n_way=3), 2)
        found.append(parameters(model))
    for other in found[1:]:
        assert all(torch.equal(value, other[name]) for name, value in found[0].items())
    with torch.inference_mode(), pytest.raises(ValueError, match=r"^model: .* made under torch.inference_mode\(\)$"):
        short(ebmeta.EmpiricalBayes.classifier(8, 1), blobs(n_way=3), 2)


def test_two_models_trained_one_after_the_other_both_train():
    for _ in range(2):
        model = ebmeta.EmpiricalBayes.classifier(8)
        before = parameters(model)
        short(model, blobs())
        assert not torch.equal(before["prior.log_power"], model.state_dict()["prior.log_power"])


def test_resume_equals_an_uninterrupted_run(tmp_path):
    arguments = {"validation": blobs(seed=1, classes=4), "validate_every": 3, "validation_tasks": 8}
    whole = ebmeta.EmpiricalBayes.classifier(8)
    full = short(whole, blobs(), **arguments)

    class Dies(ebmeta.EpisodeSampler):
        def sample(self, num_tasks, index=0):
            if index == 8:
                raise KeyboardInterrupt
            return super().sample(num_tasks, index)

    path = tmp_path / "run.safetensors"
    healthy = blobs()
    dying = Dies(healthy.X, np.repeat(np.arange(12), 40), n_query=6, seed=0)
    with pytest.raises(KeyboardInterrupt):
        short(ebmeta.EmpiricalBayes.classifier(8), dying, checkpoint=path, **arguments)
    resumed = ebmeta.EmpiricalBayes.classifier(8, seed=5)  # other initial weights: the file decides
    rest = short(resumed, blobs(), checkpoint=path, **arguments)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert full.history.equals(rest.history)
    assert (full.best_iteration, full.stopped_early) == (rest.best_iteration, rest.stopped_early)


KILLED = """
    import os, signal, sys, torch, ebmeta
    sys.path[:0] = [{root!r}, {root!r} + "/tests"]
    from tests.training.test_loop import blobs, short
    torch.set_num_threads(1)
    sample = ebmeta.EpisodeSampler.sample
    def until(self, num_tasks, index=0):
        if index == 33:  # three iterations after a checkpoint, no time to tidy up
            os.kill(os.getpid(), signal.SIGKILL)
        return sample(self, num_tasks, index)
    ebmeta.EpisodeSampler.sample = until
    short(ebmeta.EmpiricalBayes.classifier(8), blobs(), 60, checkpoint={path!r})
"""


def test_kill_9_then_resume_equals_an_uninterrupted_run(tmp_path):
    path = tmp_path / "run.safetensors"
    script = textwrap.dedent(KILLED).format(root=str(Path(__file__).parents[2]), path=str(path))
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    assert path.exists()
    resumed, whole = (ebmeta.EmpiricalBayes.classifier(8) for _ in range(2))
    short(resumed, blobs(), 60, checkpoint=path)
    short(whole, blobs(), 60)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_finished_checkpoint_returns_at_once(tmp_path):
    path = tmp_path / "run.safetensors"
    first, second = (ebmeta.EmpiricalBayes.classifier(8) for _ in range(2))
    run = short(first, blobs(), checkpoint=path)
    again = short(second, blobs(), checkpoint=path)
    assert run.history.equals(again.history)
    assert torch.equal(first.prior.log_power, second.prior.log_power)


def test_early_stopping_keeps_the_best_parameters():
    class Worsening:
        """Validation labels turn wrong after the first validation."""

        calls = 0

        def sample(self, num_tasks, index=0):
            Worsening.calls += 1
            batch = class_tasks((3,) * num_tasks, (1,) * num_tasks, (6,) * num_tasks, 8, dtype=torch.float32)
            if Worsening.calls == 1:
                return batch
            return ebmeta.TaskBatch(batch.support_x, batch.support_y, batch.query_x, (batch.query_y + 1) % 3)

    model = ebmeta.EmpiricalBayes.classifier(8)
    run = short(model, blobs(n_way=3), 60, validation=Worsening(), validate_every=2, validation_tasks=8, patience=3)
    assert run.stopped_early
    assert run.best_iteration == 2
    assert run.history.sizes["iteration"] == 2 * (1 + 3)
    twin = ebmeta.EmpiricalBayes.classifier(8)
    ended = short(twin, blobs(n_way=3), 60, validation=None)
    assert ended.history.sizes["iteration"] == 60
    assert not torch.equal(twin.prior.log_power, model.prior.log_power)


def test_a_regressor_in_double_precision_trains_on_the_evidence():
    family = LinearGaussianTasks(np.array([1.0, -0.5]), 0.5 * np.eye(2), noise=0.3, seed=0)
    model = ebmeta.EmpiricalBayes.regressor(1, num_steps=0).double()
    run = short(model, family, 400, objective="evidence", learning_rate=0.05)
    assert model.prior.loc.dtype == torch.float64
    loc, covariance = in_units(model, model.prior(1, 1))
    close(loc[0, 0].detach(), torch.tensor([1.0, -0.5], dtype=torch.float64), 0.15)
    close(covariance[0, 0].detach(), 0.25 * torch.eye(2, dtype=torch.float64), 0.1)
    assert abs((model.likelihood.log_noise.exp() * model.likelihood.unit).item() - 0.3) < 0.05
    assert run.history["nll"].attrs["units"] == "nats per query"


def test_centre_and_metric_are_measured_on_the_first_batches():
    model = ebmeta.EmpiricalBayes.classifier(8)
    batches = [blobs().sample(4, index) for index in range(2)]  # 160 rows and more, 20 for each feature
    rows = torch.cat([torch.cat([b.support_x, b.query_x], 1).flatten(0, 1) for b in batches])
    classes = torch.cat([torch.cat([b.support_y, b.query_y], 1) + 10 * torch.arange(4)[:, None] for b in batches])
    expected = ebmeta.EmpiricalBayes.classifier(8).predictor
    number = classes.flatten() + torch.arange(2).repeat_interleave(len(rows) // 2) * 1000
    expected.measure(TrainingRows(rows, classes.flatten().double(), number))
    short(model, blobs(), 1, learning_rate=1e-9)
    close(model.predictor.center, expected.center, 1e-6)
    close(model.predictor.metric, expected.metric, 1e-5)
    assert (model.predictor.metric - torch.eye(8)).abs().max() > 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_iterations": 0}, "num_iterations: expected at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate: expected a finite number above 0, got 0.0"),
        ({"seed": -1}, "seed: expected a non-negative integer of at most 63 bits, got -1"),
        ({"patience": 0}, "patience: expected at least 1, got 0"),
        ({"objective": "elbo"}, "objective: expected 'predictive', 'gibbs' or 'evidence' or an Objective, got 'elbo'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        short(ebmeta.EmpiricalBayes.classifier(8), blobs(), **arguments)


def test_unknown_and_absent_devices():
    with pytest.raises(ValueError, match="device: expected 'auto', 'cpu' or 'cuda', got 'tpu9'"):
        resolve_device("tpu9")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="expected one of 0 visible CUDA devices, got 'cuda'"):
            resolve_device("cuda")


def test_wrong_feature_count_and_label_type():
    with pytest.raises(
        ValueError,
        match="tasks: expected a source such as EpisodeSampler.X, y. or FixedTasks.batch., got array of shape",
    ):
        short(ebmeta.EmpiricalBayes.classifier(8), np.zeros((3, 8)))
    with pytest.raises(ValueError, match="x: expected 5 features per input, got shape \\(8,\\)"):
        short(ebmeta.EmpiricalBayes.classifier(5), blobs())
    with pytest.raises(
        ValueError, match="support_y: expected real-valued labels for a normal likelihood, got torch.int64"
    ):
        short(ebmeta.EmpiricalBayes.regressor(8), blobs())


def test_inputs_far_from_unit_scale_are_refused():
    rng = np.random.default_rng(0)
    X, groups = rng.standard_normal((40, 2)) * [1.0, 1900.0], np.repeat(np.arange(5), 8)
    tasks = ebmeta.GroupSampler(X, X[:, 0], groups, seed=0)
    with pytest.raises(ValueError, match="expected features and labels of about unit scale, got .* in feature 1 and"):
        short(ebmeta.EmpiricalBayes.regressor(2, standardize=False), tasks)


class RootOfSquare(torch.nn.Module):
    """|x| by a route whose gradient at 0 is not a number."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(8))

    def forward(self, x):
        return ((self.scale * x) ** 2).sqrt()


def test_a_gradient_that_is_not_finite_stops_the_run_and_changes_nothing():
    tasks = blobs()
    tasks.X = np.where(np.abs(tasks.X) < 1, 0.0, tasks.X)
    model = ebmeta.EmpiricalBayes.classifier(8, embedder=RootOfSquare())
    model.predictor.embedder.eval()
    with pytest.raises(ValueError, match="gradient nan\\) at iteration 0; expected finite: lower learning_rate"):
        short(model, tasks)
    assert torch.equal(model.predictor.embedder.scale, torch.ones(8))
    assert model.training
    assert not model.predictor.embedder.training


def test_a_run_with_dropout_depends_on_its_seed_alone():
    runs = []
    for other in (1, 2):
        net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.5))
        torch.nn.init.eye_(net[0].weight)
        torch.nn.init.zeros_(net[0].bias)
        model = ebmeta.EmpiricalBayes.classifier(8, embedder=net)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(other)
            short(model, blobs())
        runs.append(parameters(model))
    for name, value in runs[0].items():
        assert torch.equal(value, runs[1][name]), name


def test_the_last_iteration_is_validated():
    run = short(
        ebmeta.EmpiricalBayes.classifier(8), blobs(), 7, validation=blobs(seed=1, classes=4), validation_tasks=4
    )
    assert run.history["validation_iteration"].values.tolist() == [7]


def test_beta_belongs_to_the_run_and_to_the_model(tmp_path):
    model = ebmeta.EmpiricalBayes.classifier(8)
    short(model, blobs(), checkpoint=tmp_path / "run.safetensors")
    model.beta = 3.0
    with pytest.raises(ValueError, match="expected a checkpoint of a run with beta=3.0, got 0.005"):
        short(model, blobs(), checkpoint=tmp_path / "run.safetensors")
    assert ebmeta.load(ebmeta.save(model, tmp_path / "model")).beta == 3.0


def test_foreign_and_broken_checkpoints(tmp_path):
    path = tmp_path / "run.safetensors"
    short(ebmeta.EmpiricalBayes.classifier(8), blobs(), checkpoint=path)
    with pytest.raises(ValueError, match="expected a checkpoint of a run with seed=1, got 0"):
        short(ebmeta.EmpiricalBayes.classifier(8), blobs(), checkpoint=path, seed=1)
    with pytest.raises(ValueError, match="expected a checkpoint of a run with this model"):
        short(ebmeta.EmpiricalBayes.classifier(8, num_steps=2), blobs(), checkpoint=path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="expected a complete safetensors file"):
        short(ebmeta.EmpiricalBayes.classifier(8), blobs(), checkpoint=path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        short(ebmeta.EmpiricalBayes.classifier(8), blobs(), checkpoint=tmp_path / "file" / "run.safetensors")


@pytest.mark.gpu
def test_gpu_training_agrees_with_the_cpu():
    runs = {}
    for device in ("cpu", "cuda"):
        model = ebmeta.EmpiricalBayes.classifier(8).double()
        history = ebmeta.fit(model, blobs(), 20, batch_size=4, device=device, progress=False).history
        batch = blobs(seed=4).sample(5)
        tree = ebmeta.predict(model.to(device), batch)
        runs[device] = (history["loss"].values, tree["predictive/probs"].values)
    np.testing.assert_allclose(runs["cuda"][0], runs["cpu"][0], atol=1e-6)
    np.testing.assert_allclose(runs["cuda"][1], runs["cpu"][1], atol=1e-6)


def test_the_loss_of_ragged_tasks_is_per_query():
    tasks = blobs(n_way=(2, 5))
    model = ebmeta.EmpiricalBayes.classifier(8, num_steps=0)
    run = short(model, tasks, 1)
    queries = tasks.sample(4, 0).num_queries.sum().item()
    history = run.history.isel(iteration=0)
    expected = history["nll"][0] + model.beta * 4 * history["kl"][0] / queries
    assert float(history["loss"]) == pytest.approx(float(expected), rel=1e-5)


#: The few numbers of each kind of model, one of them, and a parameter that is none of them.
FEW = {
    "mixture": (("refiner.log_", "refiner.share", "refiner.adapt"), "refiner.log_scale", "prior.log_scale"),
    "joint": (("prior.volume", "prior.log_"), "prior.volume", "refiner.synthetic_gradient.readout.weight"),
}


@pytest.mark.parametrize(("learning_rate", "quick"), [(0.002, 0.02), (0.05, 0.05)])
@pytest.mark.parametrize("kind", FEW)
def test_the_few_numbers_move_in_larger_steps(kind, learning_rate, quick):
    model = ebmeta.EmpiricalBayes.classifier(8, synthetic_gradient=kind)
    named, one, other = FEW[kind]
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    short(model, blobs(), 1, learning_rate=learning_rate)  # the first step of Adam is as long as its rate
    moved = {name: float((value.detach() - before[name]).abs().max()) for name, value in model.named_parameters()}
    few = {name for name, p in model.named_parameters() if any(p is q for q in model.fast())}
    assert few == {n for n in moved if n.startswith(named)}
    assert moved[one] == pytest.approx(quick, rel=1e-3)
    assert moved[other] == pytest.approx(learning_rate, rel=1e-3)


def test_callbacks_are_told_of_every_iteration():
    told = []
    model = ebmeta.EmpiricalBayes.classifier(8, width=8)
    run = short(
        model,
        blobs(n_way=3),
        4,
        validation=blobs(n_way=3, classes=4),
        validate_every=2,
        validation_tasks=4,
        callbacks=[lambda n, numbers: told.append((n, dict(numbers)))],
    )
    assert [n for n, _ in told] == [1, 2, 3, 4]
    for name in ("loss", "learning_rate"):
        assert [numbers[name] for _, numbers in told] == run.history[name].values.tolist()
    assert [numbers["nll"] for _, numbers in told] == run.history["nll"][:, -1].values.tolist()
    seen = [numbers for _, numbers in told if "validation_nll" in numbers]
    assert [numbers["validation_loss"] for numbers in seen] == run.history["validation_loss"].values.tolist()
    assert told[1][1].keys() >= {"validation_nll", "validation_kl"}
    assert not any("validation_iteration" in numbers for _, numbers in told)


def test_a_callback_that_fails_ends_the_run_with_its_own_error(tmp_path):
    def fail(iteration, numbers):
        if iteration == 7:
            raise RuntimeError("full disk")

    file = tmp_path / "run.checkpoint"
    with pytest.raises(RuntimeError, match="full disk"):
        short(ebmeta.EmpiricalBayes.classifier(8, width=8), blobs(n_way=3), checkpoint=file, callbacks=[fail])
    whole = short(ebmeta.EmpiricalBayes.classifier(8, width=8), blobs(n_way=3))
    again = short(ebmeta.EmpiricalBayes.classifier(8, width=8), blobs(n_way=3), checkpoint=file)
    assert again.history.equals(whole.history)
