"""Fixtures: isolation of global state, the shared data, GPU tests."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TypeVar

import pyro
import pytest
import torch

from ebmeta.prediction import arviz

arviz._library()  # before test modules do, of which those of another process may be in the way

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="let every skip but that of a GPU test be a failure")
    parser.addoption("--without-data", action="store_true", help="leave out the tests that read the shared data")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--no-skips"):
        config.pluginmanager.register(NoSkips())  # for doctests too, which lie outside this folder


class NoSkips:
    """Turns skips into failures: a machine that has everything but a GPU runs everything but GPU tests."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        return report if "gpu" in item.keywords or hasattr(report, "wasxfail") else _failed(report)

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        return _failed((yield))


def _failed(report: Report) -> Report:
    if report.outcome == "skipped":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"--no-skips: {reason}"
    return report


#: Begun last, the longest test of these would leave other processes without work.
FIRST = "tests/whole/test_without_extras.py"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(FIRST))
    if config.getoption("--without-data"):
        readers = [item for item in items if "shared_data" in getattr(item, "fixturenames", ())]
        items[:] = [item for item in items if item not in readers]
        config.hook.pytest_deselected(items=readers)
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device, and none is visible to torch")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Run small tensors on one thread: faster, and other work on the machine is left in peace."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def torch_state() -> dict[str, object]:
    return {
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "pyro validation": torch.distributions.Distribution._validate_args,
        "module_local_params": pyro.settings.get("module_local_params"),
    }


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    """Give each test a fixed seed and its own parameter store; fail where it leaves global state changed."""
    before = torch_state()
    with torch.random.fork_rng(devices=[]), pyro.get_param_store().scope():
        torch.manual_seed(0)
        yield
    assert torch_state() == before


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data, or skip."""
    folder = Path(os.environ.get("EBMETA_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; name its folder in EBMETA_DATA")
    return folder
