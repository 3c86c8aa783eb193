"""The documentation builds without a warning, says all that the parts say, and its tutorials run as printed."""

from __future__ import annotations

import glob
import html
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from mtdiff.recipe import SECTIONS, SettingsSection, shipped_recipes
from mtdiff.registry import BACKBONES, CONDITIONING, REGISTRIES, Part

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TUTORIALS = ("first_plan", "own_part", "own_environment", "ablation", "sharing")  # in this order: they share a folder
# What `quickstart` means while the tutorials run: everything real, only small.
SMALL = {
    "suite": {"tasks": ["reach", "door-open"]},
    "data": {"trajectories_per_task": 2, "prompts_per_task": 2},
    "backbone": {"width": 32, "num_layers": 1},
    "sampling": {"prompts_per_task": 2},
    "training": {"updates": 6, "validate_every": 6, "log_every": 3, "batch_per_task": 4, "log_with": []},
    "evaluation": {
        "episodes_per_task": 1,
        "max_steps": 12,
        "swapped_prompt": False,
        "videos": False,
        "demonstrator": False,
        "workers": 1,
    },
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", folder / "tree"]
    done = subprocess.run([*command, DOCS, folder / "html"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "html"


def text_of(page: Path) -> str:
    """What a reader of a page sees, with single spaces."""
    shown = re.sub(r"<(script|style).*?</\1>", "", page.read_text(), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", shown)).split())


def test_every_part_is_on_its_page_with_every_argument(site: Path) -> None:
    named: list[tuple[str, Part]] = [
        (f"parts/{kind}", registry[name]) for kind, registry in REGISTRIES.items() for name in registry
    ]
    named += [("reference/settings", s.part(n)) for n, s in SECTIONS.items() if isinstance(s, SettingsSection)]
    assert len(named) > 12
    pages = {page: (site / f"{page}.html").read_text() for page in dict(named)}
    for page, part in named:
        kind = "settings" if page == "reference/settings" else page.partition("/")[2]
        begin = pages[page].find(f'id="{kind}-{part.name}"'.replace("_", "-"))
        assert begin > 0, f"{page} has no heading for {part.name}"
        own = pages[page][begin : pages[page].find("<section", begin + 200)]
        first_cells = re.findall(r'<tr[^>]*><td><p><code[^>]*><span class="pre">(\w+)</span></code></p></td>', own)
        assert first_cells == list(part.arguments), f"{page}: {part.name}"


def test_recipes_and_public_names_are_there(site: Path) -> None:
    import mtdiff

    recipes, names = text_of(site / "reference/recipes.html"), text_of(site / "reference/api.html")
    assert [name for name in shipped_recipes() if name not in recipes] == []
    assert [name for name in mtdiff.__all__ if name not in names and name != "__version__"] == []


def test_every_link_within_the_pages_resolves(site: Path) -> None:
    pages = {page: page.read_text() for page in site.rglob("*.html")}
    anchors = {page.resolve(): set(re.findall(r'\bid="([^"]+)"', text)) for page, text in pages.items()}
    broken = []
    for page, text in pages.items():
        for link in re.findall(r'<(?:a|img|link)\b[^>]*?(?:href|src)="([^"]+)"', text):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = html.unescape(link).partition("#")
            target = (page.parent / path.partition("?")[0]).resolve() if path else page.resolve()
            if not target.exists() or (anchor and target in anchors and anchor not in anchors[target]):
                broken.append(f"{page.relative_to(site)}: {link}")
    assert broken == []


def test_the_messages_in_troubleshooting_are_those_of_the_code() -> None:
    source = "".join(re.sub(r'"\s*\n\s*f?"', "", path.read_text()) for path in ROOT.glob("mtdiff/**/*.py"))
    page = (DOCS / "troubleshooting.md").read_text()
    messages = [m for line in re.findall(r"^(`.*)\n: ", page, re.MULTILINE) for m in re.findall(r"`([^`]+)`", line)]
    assert len(messages) > 30
    pieces = [piece.strip(" :.,()'") for message in messages for piece in message.split("…")]
    assert [piece for piece in pieces if piece not in source] == []


@dataclass(frozen=True)
class Block:
    """A block of code of a tutorial.

    Attributes:
        language: of the block.
        options: of the block: `:caption:` is the file it is, `:class: printed` what the last one printed.
        code: its lines.
        not_run: why it is not run, if it is not.
    """

    language: str
    options: dict[str, str]
    code: str
    not_run: str


def blocks(page: Path) -> list[Block]:
    form = r"(?:^% not run: (?P<why>[^\n]+)\n)?^```(?:\{code-block\} )?(?P<language>\w+)\n(?P<code>.*?)^```$"
    found = []
    for match in re.finditer(form, page.read_text(), re.DOTALL | re.MULTILINE):
        options = re.match(r"(?::\w+: .*\n)*", match["code"])[0]  # type: ignore[index]
        code = match["code"].removeprefix(options).removeprefix("\n")
        found.append(Block(match["language"], dict(re.findall(r":(\w+): (.*)", options)), code, match["why"] or ""))
    return found


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which `quickstart` is a small one."""
    folder = tmp_path_factory.mktemp("tutorials")
    small = {"extends": str(shipped_recipes()["quickstart"]), **SMALL}
    (folder / "quickstart").write_text(yaml.safe_dump(small))
    yield folder
    for registry, name in ((CONDITIONING, "final_state"), (BACKBONES, "flat_mlp")):
        registry._parts.pop(name, None)
    sys.modules.pop("my_parts", None)


@pytest.mark.parametrize("name", TUTORIALS)
def test_the_tutorial_runs(
    name: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name != "first_plan" and not (workplace / "outputs/demo").exists():
        monkeypatch.chdir(workplace)
        shell("mtdiff demo")
    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(workplace)
    variables: dict[str, object] = {"__name__": "__main__"}
    ran = 0
    for block in blocks(DOCS / "tutorials" / f"{name}.md"):
        if block.not_run or (block.language == "text" and not block.options):
            continue
        ran += 1
        if "class" in block.options:
            assert block.code in capsys.readouterr().out
        elif "caption" in block.options:
            file, _, more = block.options["caption"].partition(" ")
            assert more in ("", "(continued)")
            Path(file).write_text((Path(file).read_text() + "\n\n" if more else "") + block.code)
            sys.modules.pop(Path(file).stem, None)  # a reader's next command is a new process
        elif block.language == "python":
            exec(compile(block.code, f"{name}.md", "exec"), variables)
        elif block.language == "bash":
            for line in block.code.splitlines():
                shell(line)
        else:
            pytest.fail(f"{name}.md: a block of {block.language} must be a file, or say `% not run: why`")
    assert ran >= 4


def shell(line: str) -> None:
    """Run a line of bash in this process, which has imported torch already."""
    from mtdiff.cli import app

    command, _, target = line.partition(" > ")
    words = [found for word in shlex.split(command) for found in sorted(glob.glob(word)) or [word]]
    if words[0] == "mkdir":
        os.mkdir(words[1])
        return
    assert words[0] == "mtdiff", line
    with pytest.MonkeyPatch.context() as patch:
        if target:
            patch.setattr(sys, "stdout", open(target.strip(), "w"))  # noqa: SIM115
        try:
            status = app(words[1:], standalone_mode=False)
        finally:
            if target:
                sys.stdout.close()
    assert not status, f"{line}: exit status {status}"
