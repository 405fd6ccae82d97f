"""Requirements that are missing, and the environments made for them, with the real installers."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest

from kfasync.backends.local._packages import Environments, InstallError
from kfasync.backends.local._requirements import normalise, unsatisfied
from kfasync.errors import BackendError, InvalidSpecError

pytestmark = pytest.mark.anyio

PYPI = ("https://pypi.org/simple",)


def wheel(folder: Path, name: str, version: str = "1.0", requires: Sequence[str] = (), script: str = "") -> Path:
    """A wheel with one module, whose ``version`` tells it apart."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\ndef main(): print('script of', version)\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + "".join(f"Requires-Dist: {requirement}\n" for requirement in requires),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if script:
        files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{script} = {name}:main\n"
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
    return path


class Runner:
    """Runs the installers as the supervisor does, and counts them."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.started = asyncio.Event()
        self.hold: asyncio.Event | None = None
        self.ended: list[int | None] = []

    async def __call__(self, command: Sequence[str], environ: Mapping[str, str], line: Callable[[str], None]) -> int:
        self.commands.append(list(command))
        self.started.set()
        if self.hold is not None:
            await self.hold.wait()
        process = await asyncio.create_subprocess_exec(
            *command, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        assert process.stdout is not None
        try:
            async for data in process.stdout:
                line(data.decode().removesuffix("\n"))
            return await process.wait()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise

    @property
    def installs(self) -> int:
        return sum("install" in command for command in self.commands)


@pytest.fixture
def links(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    return folder


@pytest.fixture
def environ(tmp_path: Path, links: Path) -> dict[str, str]:
    """An environment in which pip's configuration knows the test's wheels only."""
    home = tmp_path / "user"
    (home / ".config" / "pip").mkdir(parents=True)
    (home / ".config" / "pip" / "pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {links}\n")
    return {"HOME": str(home), "PATH": "/usr/bin:/bin", "UV_CACHE_DIR": str(tmp_path / "uv-cache")}


def bare(folder: Path, *, pip: bool) -> str:
    """An interpreter in a virtual environment of its own, next to which there is no uv."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    if pip and (distribution := next(iter(metadata.distributions(name="pip")), None)):
        site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        (site / "pip").symlink_to(str(distribution.locate_file("pip")))
    return str(folder / "bin" / "python")


@pytest.fixture(params=["uv", "pip"])
def python(request: pytest.FixtureRequest, tmp_path: Path, environ: dict[str, str]) -> str:
    """An interpreter for which uv, or pip, will do the work."""
    uv = shutil.which("uv", path=os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"])
    if request.param == "uv":
        if uv is None:
            pytest.skip("uv is not installed")
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "uv").symlink_to(uv)
        environ["PATH"] = f"{tmp_path / 'bin'}:{environ['PATH']}"
    return bare(tmp_path / "interpreter", pip=request.param == "pip")


@pytest.fixture
async def run() -> Runner:
    return Runner()


@pytest.fixture
async def environments(tmp_path: Path, run: Runner) -> AsyncIterator[Environments]:
    made = Environments(tmp_path / "environments", run, 2)
    yield made
    await made.aclose()


def evaluate(python: Path | str, expression: str, *modules: str) -> str:
    code = f"import {', '.join(modules or ('sys',))}; print({expression})"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def into(python: str, *wheels: Path) -> None:
    """Install into an interpreter's own site-packages."""
    site = evaluate(python, "sysconfig.get_path('purelib')", "sysconfig")
    for path in wheels:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(site)


class Index(ThreadingHTTPServer):
    """A package index on loopback that wants a user and a password."""

    def __init__(self, root: Path) -> None:
        self.seen: list[str] = []
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(root)))

    def url(self, login: str = "user:hunter22") -> str:
        return f"http://{login}@127.0.0.1:{self.server_port}/simple"


class _Handler(SimpleHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        expected = "Basic " + base64.b64encode(b"user:hunter22").decode()
        if self.headers.get("Authorization") != expected:
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.server.seen.append(self.path)
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    server = Index(tmp_path / "index")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def publish(root: Path, name: str, version: str = "1.0") -> None:
    path = wheel(root / "simple" / name, name, version)
    (path.parent / "index.html").write_text(f'<a href="{path.name}">{path.name}</a>')


# What is missing ----------------------------------------------------------------------------------------------------


def test_what_is_installed_is_not_missing() -> None:
    assert unsatisfied(["packaging", "Packaging>=20", f"pytest=={metadata.version('pytest')}"]) == []


def test_missing_ones_are_given_in_their_order() -> None:
    assert unsatisfied(["no-such-b", "packaging", "No_Such.A >1", "packaging<1"]) == [
        "no-such-b",
        "no-such-a>1",
        "packaging<1",
    ]


def test_a_marker_that_does_not_apply_asks_for_nothing() -> None:
    assert unsatisfied(["no-such-thing; python_version < '3'"]) == []
    assert unsatisfied(["no-such-thing; python_version > '3'"]) == ['no-such-thing; python_version > "3"']


def test_extras_count_with_what_they_bring(links: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    wants = ["packaging; extra == 'met'", "no-such-thing; extra == 'unmet'", "withextras[unmet]; extra == 'chain'"]
    path = wheel(links, "withextras", requires=[*wants, "withextras[loop]; extra == 'loop'", "no-such-base"])
    with zipfile.ZipFile(path) as archive:
        archive.extractall(site)
    monkeypatch.syspath_prepend(str(site))
    assert unsatisfied(["withextras", "withextras[met]", "withextras[loop]"]) == []
    assert unsatisfied(["withextras[unmet]", "withextras[met,chain]"]) == ["withextras[unmet]", "withextras[chain,met]"]


def test_urls_and_paths_are_always_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    url = "git+https://example.org/packaging.git"
    wanted = [url, "./here[extra]", "packaging @ https://example.org/packaging.whl"]
    assert unsatisfied(wanted)[:2] == [url, f"{tmp_path}/here[extra]"]
    assert len(unsatisfied(wanted)) == 3


@pytest.mark.parametrize(
    "bad", ["", "not a requirement", "numpy=>1", "--index-url=http://evil", "-e .", "numpy\n--pre", "a[b", 3]
)
def test_a_malformed_requirement_is_named(bad: str) -> None:
    with pytest.raises(InvalidSpecError, match="packages_to_install has") as caught:
        unsatisfied(["packaging", bad])
    assert repr(bad) in str(caught.value)


def test_a_malformed_requirement_is_named_without_its_password() -> None:
    with pytest.raises(InvalidSpecError) as caught:
        unsatisfied(["https://user:hunter22@example.org/a\n"])
    assert "hunter22" not in str(caught.value)


def test_a_string_in_place_of_a_list_is_refused() -> None:
    with pytest.raises(InvalidSpecError, match="list"):
        unsatisfied("numpy")


def test_equal_sets_have_one_form() -> None:
    assert normalise(["Foo.Bar[b,a] >=1,<2", "zed"]) == normalise(["zed", "foo-bar[a,b]<2,>=1", "zed"])


# Environments -------------------------------------------------------------------------------------------------------


async def test_an_environment_has_the_packages_and_sees_the_interpreters_own(
    environments: Environments, python: str, environ: dict[str, str], links: Path, run: Runner
) -> None:
    into(python, wheel(links.parent / "own", "inherited", "1.0"), wheel(links.parent / "own", "replaced", "1.0"))
    wheel(links, "added", requires=["inherited>=1", "replaced>=2"])
    wheel(links, "inherited", "9.0")
    wheel(links, "replaced", "2.0")
    lines: list[str] = []
    made = await environments.ensure(python, ["added"], PYPI, environ, lines.append)
    versions = evaluate(made, "added.version, inherited.version, replaced.version", "added", "inherited", "replaced")
    # What is there and fits stays as it is; what has to be newer wins.
    assert versions == "1.0 1.0 2.0"
    assert evaluate(made, "m.version('replaced'), m.version('inherited')", "importlib.metadata as m") == "2.0 1.0"
    assert evaluate(python, "replaced.version", "replaced") == "1.0"
    assert any("added" in line for line in lines)
    uses_uv = run.commands[-1][1] == "pip"
    assert uses_uv == (shutil.which("uv", path=environ["PATH"]) is not None)


async def test_a_set_is_built_once_and_shared(
    environments: Environments, python: str, environ: dict[str, str], links: Path, run: Runner
) -> None:
    wheel(links, "added")
    progress: list[list[str]] = [[] for _ in range(10)]
    made = await asyncio.gather(
        *(environments.ensure(python, ["added"], PYPI, environ, lines.append) for lines in progress)
    )
    assert len(set(made)) == 1
    assert run.installs == 1
    assert all(any("added" in line for line in lines) for lines in progress)
    assert await environments.ensure(python, ["Added", "added"], (), environ, print) == made[0]
    assert run.installs == 1
    wheel(links, "another")
    other = await environments.ensure(python, ["added", "another"], PYPI, environ, progress[0].append)
    assert other != made[0]


async def test_scripts_run_from_where_the_environment_is(
    environments: Environments, python: str, environ: dict[str, str], links: Path
) -> None:
    wheel(links, "added", script="say-version")
    made = await environments.ensure(python, ["added"], PYPI, environ, lambda line: None)
    said: list[str] = []
    assert await Runner()([str(made.parent / "say-version")], environ, said.append) == 0
    assert said == ["script of 1.0"]


async def test_a_failure_tells_the_installers_own_words(
    environments: Environments, python: str, environ: dict[str, str], links: Path, tmp_path: Path
) -> None:
    wheel(links, "added", requires=["nowhere-to-be-found>3"])
    with pytest.raises(InstallError, match="nowhere-to-be-found") as caught:
        await environments.ensure(python, ["added"], PYPI, environ, lambda line: None)
    assert isinstance(caught.value, BackendError)
    assert len(str(caught.value)) < 12_000
    assert list((tmp_path / "environments").iterdir()) == []
    # A failure is not remembered.
    wheel(links, "nowhere_to_be_found", "4.0")
    assert (await environments.ensure(python, ["added"], PYPI, environ, lambda line: None)).exists()


async def test_a_jobs_index_wins_over_pips_configuration_and_keeps_its_password(
    environments: Environments, python: str, environ: dict[str, str], index: Index, tmp_path: Path, run: Runner
) -> None:
    publish(tmp_path / "index", "indexed")
    lines: list[str] = []
    made = await environments.ensure(python, ["indexed"], [index.url()], environ, lines.append)
    assert evaluate(made, "indexed.version", "indexed") == "1.0"
    assert any("indexed" in path for path in index.seen)
    with pytest.raises(InstallError) as caught:
        await environments.ensure(python, ["nowhere"], [index.url()], environ, lines.append)
    told = str(caught.value) + "\n".join(lines) + repr(run.commands)
    assert "hunter22" not in told
    leftover = [path for path in made.parents[1].rglob("*") if path.is_file() and path.stat().st_size < 100_000]
    assert not any(b"hunter22" in path.read_bytes() for path in leftover)


@pytest.mark.parametrize("source", ["variable", "user file", "PIP_CONFIG_FILE", "interpreter's file"])
async def test_pips_configuration_is_respected(
    environments: Environments,
    python: str,
    environ: dict[str, str],
    index: Index,
    tmp_path: Path,
    source: str,
) -> None:
    publish(tmp_path / "index", "indexed")
    configuration = tmp_path / "user" / ".config" / "pip" / "pip.conf"
    configuration.unlink()
    text = f"[global]\nindex-url = http://127.0.0.1:1/unused\n[install]\nindex-url = {index.url()}\n"
    if source == "variable":
        environ["PIP_INDEX_URL"] = index.url()
    elif source == "user file":
        configuration.write_text(text)
    elif source == "PIP_CONFIG_FILE":
        environ["PIP_CONFIG_FILE"] = str(tmp_path / "other.conf")
        (tmp_path / "other.conf").write_text(text)
    else:
        (Path(python).parent.parent / "pip.conf").write_text(text)
    lines: list[str] = []
    made = await environments.ensure(python, ["indexed"], PYPI, environ, lines.append)
    assert evaluate(made, "indexed.version", "indexed") == "1.0"
    assert "hunter22" not in "".join(lines)


async def test_the_newest_of_all_indexes_is_taken(
    environments: Environments, python: str, environ: dict[str, str], index: Index, tmp_path: Path
) -> None:
    publish(tmp_path / "index", "indexed", "1.0")
    publish(tmp_path / "index" / "extra", "indexed", "2.0")
    urls = [index.url(), index.url().replace("/simple", "/extra/simple")]
    made = await environments.ensure(python, ["indexed"], urls, environ, lambda line: None)
    assert evaluate(made, "indexed.version", "indexed") == "2.0"


async def test_a_changed_local_package_gets_a_new_environment(
    environments: Environments, python: str, environ: dict[str, str], tmp_path: Path
) -> None:
    path = wheel(tmp_path / "a folder", "local")
    first = await environments.ensure(python, [str(path)], PYPI, environ, lambda line: None)
    assert evaluate(first, "local.version", "local") == "1.0"
    again = await environments.ensure(python, [str(path)], PYPI, environ, lambda line: None)
    assert again == first
    os.utime(path, (1, 1))
    assert await environments.ensure(python, [str(path)], PYPI, environ, lambda line: None) != first


async def test_a_configuration_that_pip_can_not_read_is_named(
    environments: Environments, python: str, environ: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "user" / ".config" / "pip" / "pip.conf"
    path.write_text("index-url = https://user:hunter22@example.org/simple")
    with pytest.raises(InstallError) as caught:
        await environments.ensure(python, ["added"], PYPI, environ, lambda line: None)
    assert str(path) in str(caught.value)
    assert "hunter22" not in str(caught.value)


async def test_one_cancelled_asker_leaves_the_build_to_the_others(
    environments: Environments, environ: dict[str, str], links: Path, run: Runner, tmp_path: Path
) -> None:
    wheel(links, "added")
    run.hold = asyncio.Event()
    python = bare(tmp_path / "interpreter", pip=True)
    askers = [
        asyncio.create_task(environments.ensure(python, ["added"], PYPI, environ, lambda line: None)) for _ in range(2)
    ]
    await run.started.wait()
    askers[0].cancel()
    await asyncio.wait([askers[0]])
    run.hold.set()
    assert (await askers[1]).exists()
    assert askers[0].cancelled()


async def test_a_build_that_nobody_waits_for_is_cancelled(
    environments: Environments, environ: dict[str, str], links: Path, run: Runner, tmp_path: Path
) -> None:
    wheel(links, "added")
    run.hold = asyncio.Event()
    python = bare(tmp_path / "interpreter", pip=True)
    askers = [
        asyncio.create_task(environments.ensure(python, ["added"], PYPI, environ, lambda line: None)) for _ in range(2)
    ]
    await run.started.wait()
    for asker in askers:
        asker.cancel()
    await asyncio.wait(askers)
    assert list((tmp_path / "environments").iterdir()) == []
    run.hold = None
    assert (await environments.ensure(python, ["added"], PYPI, environ, lambda line: None)).exists()


async def test_closing_ends_the_builds(
    environments: Environments, environ: dict[str, str], run: Runner, tmp_path: Path
) -> None:
    run.hold = asyncio.Event()
    asker = asyncio.create_task(environments.ensure(sys.executable, ["added"], PYPI, environ, lambda line: None))
    await run.started.wait()
    await environments.aclose()
    await asyncio.wait([asker])
    assert asker.cancelled()
    assert list((tmp_path / "environments").iterdir()) == []


def stand(root: Path, name: str, used: float) -> Path:
    (root / name / "bin").mkdir(parents=True)
    os.utime(root / name, (used, used))
    return root / name


async def test_the_least_recently_used_environments_go(environments: Environments, tmp_path: Path) -> None:
    root = tmp_path / "environments"
    made = [stand(root, f"{n}", 100.0 + n) for n in range(5)]
    await environments.collect([made[0] / "bin" / "python"])
    assert sorted(path.name for path in root.iterdir()) == ["0", "3", "4"]


async def test_what_a_crash_left_half_made_goes(environments: Environments, tmp_path: Path) -> None:
    stand(tmp_path / "environments", ".abc-1234", 100.0)
    stand(tmp_path / "environments", "whole", 100.0)
    await environments.collect([])
    assert [path.name for path in (tmp_path / "environments").iterdir()] == ["whole"]


async def test_collecting_before_anything_was_made_is_harmless(environments: Environments) -> None:
    await environments.collect([])


async def test_a_missing_interpreter_is_an_install_error(environments: Environments, environ: dict[str, str]) -> None:
    with pytest.raises(InstallError, match="/no/python"):
        await environments.ensure("/no/python", ["added"], PYPI, environ, lambda line: None)
