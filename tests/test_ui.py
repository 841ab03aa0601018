"""The MLflow UI in a browser: what it shows of runs.

Make the screenshots of docs/ui.md with `SCREENSHOTS=docs/images make test PYTEST_ARGS=tests/test_ui.py`.
"""

import contextlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import pytest
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from studies.config import CompareConfig, QuickStartConfig, ReportConfig
from studies.runs.comparison import run_comparison
from studies.runs.report import run_report
from studies.runs.training import run_training
from studies.tracking.shared_view import view_address
from tests import tiny_network
from tests.conftest import PROJECT, write_own_data

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
SCREENSHOTS = os.environ.get("SCREENSHOTS")
PATIENCE = 90
"""Seconds to wait for what a page is to show."""
SMALL: dict[str, Any] = {
    "dataset": "folder", "model": tiny_network.LRASPP, "resize": 32, "crop": 32, "epochs": 3, "batch_size": 4,
}  # fmt: skip
"""Fields that differ from the quick start if no screenshots are made."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or CHROMEDRIVER is None,
        reason="needs a browser and its driver: Debian's packages chromium and chromium-driver",
    ),
]


class Shown(NamedTuple):
    """A server, and the runs to look at in its UI."""

    address: str
    experiment_id: str
    training_runs: tuple[str, str]
    comparison: str
    report: str

    def page(self, run_id: str, tab: str = "") -> str:
        return f"{self.address}/#/experiments/{self.experiment_id}/runs/{run_id}{tab}?workflowType=machine_learning"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, store: str) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("ui")
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as open_now:
        patch.setenv("MLFLOW_TRACKING_URI", store)
        patch.chdir(folder)
        experiment_id = mlflow.MlflowClient().create_experiment("quick-start")  # makes the tables of the store, too
        wait_for_server, address = open_now.enter_context(serving(store, folder))
        with contextlib.redirect_stdout(io.StringIO()):
            runs = recorded(folder)
        wait_for_server()
        yield Shown(address, experiment_id, *runs)


def recorded(folder: Path) -> tuple[tuple[str, str], str, str]:
    """Record two training runs, their comparison and a report in one experiment; return the IDs of the runs."""
    values: dict[str, Any] = {
        "plot_every": 4 if SCREENSHOTS else 1, "examples": 2, "device": "cpu", "log_model": False,
        "experiment": "quick-start", "cache_dir": "cache", "checkpoint_dir": "checkpoints",
    }  # fmt: skip
    if not SCREENSHOTS:
        values |= SMALL | {"data_dir": str(write_own_data(folder, train=8, val=4))}
    first = run_training(QuickStartConfig(**values)).run_id
    second = run_training(QuickStartConfig(**values | {"learning_rate": 0.03})).run_id
    run_comparison(CompareConfig(run_ids=f"{first},{second}", experiment="quick-start", examples=2))
    run_report(ReportConfig(run_ids=f"{first},{second}", output=str(folder / "report")))
    return (first, second), of_kind("compare"), of_kind("report")


def of_kind(kind: str) -> str:
    """The id of the last run of a kind."""
    experiments = [each.experiment_id for each in mlflow.MlflowClient().search_experiments()]
    return str(mlflow.MlflowClient().search_runs(experiments, f"tags.kind = '{kind}'")[0].info.run_id)


@contextlib.contextmanager
def serving(store: str, folder: Path) -> Iterator[tuple[Callable[[], None], str]]:
    """Start MLflow's server; yields what waits until it answers, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = folder / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--backend-store-uri", store], cwd=folder, env=environment, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip

        def wait() -> None:
            for _ in range(4 * PATIENCE):
                assert process.poll() is None, log.read_text()
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                    return
                time.sleep(0.25)
            raise AssertionError(log.read_text())

        try:
            yield wait, f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


@pytest.fixture(scope="module")
def chromium(shown: Shown) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run", "disable-sync",
        "disable-background-networking", "disable-component-update", "disable-quic", "hide-scrollbars",
        "window-size=1440,1180", "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(CHROMEDRIVER)))
    try:
        driver.get(f"{shown.address}/version")
        forget_searches(driver)
        yield driver
    finally:
        driver.quit()


def forget_searches(driver: webdriver.Chrome) -> None:
    """Clear what MLflow keeps in the browser, and keep the panel of its assistant closed."""
    driver.execute_script("localStorage.clear()")
    for key, value in (("fab.autoOpenedOnFirstLoad_v1", "true"), ("panelOpen_v1", "false")):
        driver.execute_script("localStorage.setItem(...arguments)", f"mlflow.assistant.{key}", value)


class Browser:
    """Opens pages and waits until they show what they should."""

    def __init__(self, driver: webdriver.Chrome, screenshots: Path) -> None:
        self.driver = driver
        self.screenshots = screenshots

    def open(self, address: str) -> None:
        """Load a page from the start, not only another part of the one that is open."""
        self.driver.get("about:blank")
        self.driver.get(address)

    def wait(self, what: Callable[[], Any], missing: str) -> Any:
        ignored = [StaleElementReferenceException]
        try:
            return WebDriverWait(self.driver, PATIENCE, ignored_exceptions=ignored).until(lambda _: what())
        except TimeoutException:
            self.screenshot("failed")
            raise AssertionError(
                f"no {missing} on {self.driver.current_url}, see {self.screenshots}/ui-failed.png"
            ) from None

    def text(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").text

    def wait_for_text(self, *wanted: str) -> None:
        self.wait(lambda: all(each in self.text() for each in wanted), " or ".join(wanted))

    def all(self, xpath: str) -> list[WebElement]:
        return self.driver.find_elements(By.XPATH, xpath)

    def the(self, xpath: str) -> WebElement:
        return self.wait(lambda: self.all(xpath), xpath)[0]

    def rendered(self, xpath: str, count: int = 1) -> list[WebElement]:
        """Return images that are loaded and decoded."""
        script = "return arguments[0].complete ? arguments[0].naturalWidth : 0"

        def ready() -> list[WebElement]:
            found = self.all(xpath)
            sizes = [self.driver.execute_script(script, each) for each in found]
            return found if len(found) >= count and all(sizes) else []

        return self.wait(ready, f"picture {xpath}")

    def search_charts(self, pattern: str) -> None:
        """Show the charts of matching metrics; plots of single epochs stay."""
        search = self.the("//input[contains(@placeholder, 'Search metric charts')]")
        search.send_keys(Keys.CONTROL, "a")
        search.send_keys(pattern)

    def hide(self, xpath: str) -> None:
        """Hide an element that only makes sense on this machine."""
        self.driver.execute_script("arguments[0].style.visibility = 'hidden'", self.the(xpath))

    def screenshot(self, name: str, height: int = 2000) -> None:
        """Save a screenshot down to a height in pixels, with few colours to keep the file small."""
        file = self.screenshots / f"ui-{name}.png"
        seen = Image.open(io.BytesIO(self.driver.get_screenshot_as_png())).convert("RGB")
        seen = seen.crop((0, 0, seen.width, min(height, seen.height)))
        seen.quantize(192, dither=Image.Dither.NONE).save(file, optimize=True)


@pytest.fixture
def browser(chromium: webdriver.Chrome, tmp_path: Path) -> Browser:
    return Browser(chromium, PROJECT / SCREENSHOTS if SCREENSHOTS else tmp_path)


def test_the_list_of_runs_tells_them_apart_and_can_be_filtered(browser: Browser, shown: Shown) -> None:
    names = [mlflow.get_run(run_id).info.run_name for run_id in (*shown.training_runs, shown.comparison)]
    assert [name.partition(" · ")[0] for name in names[:2]] == ["lr 0.1", "lr 0.03"], "what differs comes first"
    browser.open(f"{shown.address}{view_address(shown.experiment_id)}")
    of_model = mlflow.get_run(shown.training_runs[0]).data.metrics
    headline = [f"val_model/{name}" for name in ("loss", "pixel_accuracy", "mean_iou", "ece")]
    browser.wait_for_text(*names, *headline, str(of_model["val_model/mean_iou"])[:5])
    browser.screenshot("runs", height=420)
    search = browser.the("//input[contains(@placeholder, 'metrics.rmse')]")
    search.send_keys("tags.kind = 'train' and metrics.`val_model/ece` < 1", Keys.ENTER)
    browser.wait(lambda: names[2] not in browser.text(), "shorter list")
    browser.wait_for_text(*names[:2])


def test_a_run_is_described_by_its_figures_and_pictures(browser: Browser, shown: Shown) -> None:
    browser.open(shown.page(shown.training_runs[0]))
    ece = mlflow.get_run(shown.training_runs[0]).data.metrics["val_model/ece"]
    browser.wait_for_text("epoch", "best val/mean_iou", f"ECE {ece:.4f} [")
    browser.the("//button[normalize-space()='Show more']").click()
    (diagram,) = browser.rendered("//img[contains(@src, 'get-artifact')]")
    side = browser.the("//*[normalize-space(text())='About this run']")
    assert diagram.rect["x"] + diagram.rect["width"] < side.rect["x"]
    browser.screenshot("run")


def test_metrics_are_charted_over_epochs(browser: Browser, shown: Shown) -> None:
    browser.open(shown.page(shown.training_runs[0], "/model-metrics"))
    browser.search_charts("val/(loss|ece|mean_iou)$")
    epochs = int(mlflow.get_run(shown.training_runs[0]).data.params["epochs"])
    scroll = "for (let e = arguments[0]; e; e = e.parentElement) e.scrollTop = e.scrollHeight"
    points = (
        "return [...document.querySelectorAll('.scatterlayer .trace')].map(t => t.querySelectorAll('.point').length)"
    )

    def drawn() -> bool:  # only what is in sight
        browser.driver.execute_script(scroll, browser.the("//*[@role='slider']"))
        return [count for count in browser.driver.execute_script(points) if count] == 3 * [epochs]

    browser.wait(drawn, "three curves of all epochs")
    for name in ("ece", "loss", "mean_iou"):
        assert browser.all(f"//*[normalize-space(text())='{name}']"), name


def test_the_metrics_tab_opens_with_curves_and_ends_with_the_kept_model(browser: Browser, shown: Shown) -> None:
    def sections() -> list[str]:
        return re.findall(r"^([\w/]+)\n\(\d+\)$", browser.text(), re.MULTILINE)

    browser.open(shown.page(shown.training_runs[0]))
    forget_searches(browser.driver)
    browser.open(shown.page(shown.training_runs[0], "/model-metrics"))
    browser.wait(lambda: "val_model" in sections(), "section val_model")
    assert sections()[:2] == ["train", "val"]
    assert set(sections()[2:]) == {"val/iou", "val_epochs", "val_model"}


def test_the_stepper_shows_the_reliability_diagram_of_every_logged_epoch(browser: Browser, shown: Shown) -> None:
    logged = mlflow.artifacts.list_artifacts(run_id=shown.training_runs[0], artifact_path="images")
    found = [re.fullmatch(r"images/val_epochs~reliability\+step\+(\d+)\+.*\.png", each.path) for each in logged]
    epochs = sorted(int(each[1]) for each in found if each)
    assert len(epochs) > 2
    browser.open(shown.page(shown.training_runs[0], "/model-metrics"))
    browser.search_charts("val/(loss|ece|mean_iou)$")
    card = (
        "//*[@data-testid='experiment-view-compare-runs-card'][.//*[normalize-space(text())='val_epochs/reliability']]"
    )
    browser.the(f"{card}//*[@data-testid='experiment-view-compare-runs-card-menu']").click()
    browser.the("//*[@role='menuitem'][contains(., 'Configure')]").click()
    browser.the("//*[@role='dialog']//button[@role='switch']").click()
    browser.the("//*[@role='dialog']//button[contains(., 'Save')]").click()
    browser.wait(lambda: not browser.all("//*[@role='dialog']"), "closed dialog")
    slider = browser.the(f"{card}//*[@role='slider']")
    browser.driver.execute_script("arguments[0].scrollIntoView()", browser.the(card))
    for epoch in epochs:
        slider.send_keys(Keys.ARROW_RIGHT)
        browser.rendered(f"{card}//img[contains(@src, 'step%2B{epoch}%2B')]")
        assert slider.get_attribute("aria-valuenow") == str(epoch)
    browser.screenshot("stepper")


def test_pictures_and_tables_open_in_the_artifact_viewer(browser: Browser, shown: Shown) -> None:
    browser.open(shown.page(shown.training_runs[0], "/artifacts/reliability/val.png"))
    browser.rendered("//img[contains(@src, 'blob:') or contains(@src, 'get-artifact')]")
    browser.open(shown.page(shown.comparison, "/artifacts/comparison/table.md"))
    browser.wait_for_text("pixel_accuracy", "A − B")


def test_the_comparison_shows_all_runs_in_one_diagram(browser: Browser, shown: Shown) -> None:
    browser.open(shown.page(shown.comparison))
    browser.the("//button[normalize-space()='Show more']").click()
    (diagram,) = browser.rendered("//img[contains(@src, 'get-artifact')]")
    assert diagram.rect["width"] > 500


def test_the_report_opens_with_its_pictures(browser: Browser, shown: Shown) -> None:
    browser.open(shown.page(shown.report, "/artifacts/report/report.html"))
    frame = browser.the("//iframe")
    browser.driver.switch_to.frame(frame)
    try:
        browser.wait_for_text("Report on 2 runs", "lr 0.03")
        pictures = browser.rendered("//img", 6)
        assert all(str(each.get_attribute("src")).startswith("data:image/") for each in pictures)
    finally:
        browser.driver.switch_to.default_content()
    browser.hide("//*[starts-with(normalize-space(text()), 'Path:')]")  # a path of this machine
    browser.screenshot("report")
