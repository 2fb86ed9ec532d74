"""What README and docs show works as it stands: code runs, commands parse, links lead there."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

import lightrag_fakes
import tollway
from tollway.cli import app
from tollway.simulator import Simulator

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "benches/README.md", *sorted((ROOT / "docs").rglob("*.md"))]

# What a page takes for granted: the reader's own texts, clients and addresses.
GIVEN = """
import asyncio, os, time
from typing import Literal
import httpx, numpy as np, openai, pyarrow as pa, pydantic
import tollway
from tollway import LLM, Embedder

text, texts, prompts = "A tollway.", ["one", "two", "three"], ["Why?", "How?"]
messages, tools = [{"role": "user", "content": "Hello."}], None
SIM = os.environ["OPENAI_BASE_URL"]
EAST = os.environ["AZURE_OPENAI_ENDPOINT"]
WEST = EAST.replace("127.0.0.1", "localhost")
SMALL = "openai/text-embedding-3-small"

class Client:
    async def create(self, *_): return self
    usage = tollway.Usage(input_tokens=100, output_tokens=5)

client, usage = Client(), Client.usage
async def send(): return usage
"""

# What single pages, and blocks of them, need besides.
PAGES_GIVEN = {
    "docs/completions.md": "llm = LLM('openai/gpt-4o-mini')",
    "docs/retries.md": "limiter = tollway.RateLimiter(tollway.Limits(rpm=600)); GATEWAY = SIM",
    "docs/routing.md": """
KEY_1, KEY_2 = "one", "two"
llm = my_llm = LLM("openai/gpt-4o-mini")
rows, reviews = [{"text": "one", "language": "Korean"}], ["great", "awful"]
""",
    "docs/lightrag.md": """
from tollway.integrations import lightrag
from lightrag import LightRAG
llm = LLM("openai/gpt-4o-mini")
""",
}
BLOCKS_GIVEN = {
    "docs/completions.md 5": """
class my_gateway:
    async def ask(prompt, system): return "answer"
class my_encoder:
    def encode(texts): return np.ones((len(texts), 4), np.float32)
""",
    "docs/jobs.md 0": """
class Row: id, body = "a", "one"
class Rows(list):
    def __call__(self): return (tollway.Document(row.id, row.body) for row in self)
rows, table = Rows([Row()]), pa.table({"id": ["a", "b"], "text": ["one", "two"]})
embedder = Embedder(SMALL)
vectors = np.zeros((2, 4), np.float32)
class collection: add = lambda ids, vectors: None
""",
    "docs/jobs.md 1": """
first, second, model, limits = "one", "two", "text-embedding-3-small", tollway.Limits(rpm=600)
""",
    "docs/limits.md 3": """
limiter, seconds = tollway.RateLimiter(tollway.Limits(rpm=600)), 0.5
response = httpx.Response(200, headers={"anthropic-ratelimit-requests-limit": "50"})
""",
    "docs/simulator.md 1": """
class my_client:
    def __init__(self, url): self.embedder = Embedder(SMALL, base_url=url)
    def embed(self, texts): return self.embedder.embed_sync(texts)
""",
    "docs/simulator.md 2": """
from tollway.simulator import Simulator
with Simulator(ledger="calls.jsonl") as sim:
    Embedder(SMALL, base_url=sim.base_url).embed_sync([text, "two"])
start, end = 0.0, 60.0
""",
    "docs/tokens.md 2": """
import pathlib, tokenizers
pathlib.Path("llama").mkdir()
words = tokenizers.models.WordLevel({"[UNK]": 0, "A": 1}, unk_token="[UNK]")
tokenizers.Tokenizer(words).save("llama/tokenizer.json")
""",
    "docs/transport.md 0": """
import trustme
authority = trustme.CA()
authority.cert_pem.write_to_path("corp-ca.pem")
mine = authority.issue_cert("me.example")
mine.private_key_pem.write_to_path("me.key")
mine.cert_chain_pems[0].write_to_path("me.pem")
""",
}

# Compiled only: it needs a SOCKS proxy.
NOT_RUN = {"docs/transport.md 1"}


@dataclass(frozen=True)
class Block:
    page: Path
    number: int
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page_name} {self.number}"

    @property
    def page_name(self) -> str:
        return self.page.relative_to(ROOT).as_posix()


def blocks(language):
    found = []
    for page in PAGES:
        written = page.read_text(encoding="utf-8")
        fences = re.finditer(r"^```(\w*)\n(.*?)^```$", written, re.MULTILINE | re.DOTALL)
        of_language = [fence for fence in fences if fence[1] == language]
        for number, fence in enumerate(of_language):
            line = written[: fence.start()].count("\n") + 1
            found.append(Block(page, number, line, language, fence[2]))
    return found


PYTHON = blocks("python")


def by_name(block):
    return block.name


@pytest.fixture(scope="module")
def sim():
    with Simulator() as sim:
        yield sim


@pytest.fixture
def provider(sim, monkeypatch, tmp_path):
    """An environment in which every provider is the simulator."""
    address = sim.base_url.removesuffix("/v1")
    for name, value in {
        "OPENAI_BASE_URL": sim.base_url,
        "OPENAI_API_KEY": "any",
        "ANTHROPIC_BASE_URL": address,
        "ANTHROPIC_API_KEY": "any",
        "AZURE_OPENAI_ENDPOINT": address,
        "AZURE_OPENAI_API_KEY": "any",
        "GOOGLE_API_KEY": "any",
        "OLLAMA_HOST": address,
        "TOLLWAY_LIMITS_DIR": str(tmp_path / "limits"),
    }.items():
        monkeypatch.setenv(name, value)
    # A batch is looked at soon.
    defaults = tollway.BatchOptions.__init__.__defaults__
    monkeypatch.setattr(tollway.BatchOptions.__init__, "__defaults__", (0.01, *defaults[1:]))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs.jsonl").write_text('{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n')


@pytest.fixture
async def closing(monkeypatch):
    """Close what pages make and leave open, as pages are about something else."""
    made = []
    for kind in (tollway.LLM, tollway.Embedder):

        def noted(self, *args, made=made, init=kind.__init__, **kwargs):
            made.append(self)
            init(self, *args, **kwargs)

        monkeypatch.setattr(kind, "__init__", noted)
    yield
    for each in made:
        if hasattr(each, "limiter") or hasattr(each, "provider"):
            await each.aclose()


async def run(source, name, namespace):
    code = compile(source, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    running = eval(code, namespace)
    if inspect.isawaitable(running):
        await running


@pytest.mark.parametrize(
    "block", [each for each in PYTHON if each.name not in NOT_RUN], ids=by_name
)
async def test_code_runs(block, provider, closing, monkeypatch):
    lightrag_fakes.install(monkeypatch)
    steps = [GIVEN, PAGES_GIVEN.get(block.page_name, ""), BLOCKS_GIVEN.get(block.name, "")]
    namespace = {"__name__": "page"}
    with contextlib.redirect_stdout(io.StringIO()):
        for step in steps:
            await run(step, "given", namespace)
        await run("\n" * block.line + block.text, str(block.page), namespace)


@pytest.mark.parametrize("block", PYTHON, ids=by_name)
def test_code_is_python(block):
    compile(block.text, block.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def commands():
    """Every `tollway …` and `make …` of a page, in fences and in the text."""
    found = set()
    for page in PAGES:
        written = page.read_text(encoding="utf-8")
        fenced = re.findall(r"^\$ (.+?)(?:  +#.*)?$", written, re.MULTILINE)
        spans = re.findall(
            r"`([^`]+)`", re.sub(r"^```.*?^```$", "", written, flags=re.MULTILINE | re.DOTALL)
        )
        for line in (*fenced, *(" ".join(span.split()) for span in spans)):
            if line.startswith(("tollway ", "make ", ".venv/bin/python ")):
                found.add((page.relative_to(ROOT).as_posix(), line))
    return sorted(found)


COMMANDS = commands()


def test_commands_are_found():
    assert ("README.md", "make run") in COMMANDS
    assert len(COMMANDS) > 20


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_commands_are_there(page, line):
    program, name, *arguments = shlex.split(line)
    if program == "make":
        made = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {each for each in (name, *arguments) if "=" not in each} <= set(made)
    elif program.endswith("python"):
        assert (ROOT / name).is_file()
    else:
        command = typer.main.get_command(app).commands[name]
        known = {option for each in command.params for option in each.opts}
        assert {each.split("=")[0] for each in arguments if each.startswith("--")} <= {
            *known,
            "--help",
        }
        # As it would be run: a missing argument or a wrong value is a usage error.
        command.make_context(name, list(arguments))


def anchors(page):
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if target.is_dir():
            continue
        assert not anchor or anchor in anchors(target), link


def test_the_reference_has_every_public_name():
    listed = re.findall(
        r"^::: tollway\.(\w+)$", (ROOT / "docs/reference.md").read_text(), re.MULTILINE
    )
    modules = {"errors", "transport", "simulator"}
    assert sorted(set(listed) - modules) == sorted(tollway.__all__)


def test_every_page_is_in_the_index():
    listed = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in listed


MODELS = {
    "OPENAI_BASE_URL": "openai/gpt-4o",
    "AZURE_OPENAI_ENDPOINT": "azure/east",
    "ANTHROPIC_BASE_URL": "anthropic/claude-haiku-4-5",
    "GOOGLE_GEMINI_BASE_URL": "gemini/gemini-2.5-flash",
    "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": "bedrock/anthropic.claude-haiku",
    "OLLAMA_HOST": "ollama/llama3.2",
}


@pytest.mark.parametrize("variable", MODELS)
async def test_the_variables_of_its_page_lead_to_the_simulator(
    provider, sim, variable, monkeypatch
):
    written = (ROOT / "docs/simulator.md").read_text(encoding="utf-8")
    named = re.search(rf"^\| .+ \| `{variable}`, with(out)? `/v1` \| .+ \|$", written, re.MULTILINE)
    address = sim.base_url.removesuffix("/v1") if named[1] else sim.base_url
    monkeypatch.setenv(variable, address)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "any-1")
    before = len(sim.ledger)
    async with tollway.LLM(MODELS[variable]) as llm:
        assert (await llm.complete("hello")).text.endswith("hello")
    assert len(sim.ledger) == before + 1


def figures(page):
    """The rows that end with a command."""
    written = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^\| .+ \| .+ \| `[^|]+` \|$", written, re.MULTILINE)


def test_figures_of_the_readme_are_those_of_the_benchmarks():
    assert len(figures("README.md")) > 5
    assert set(figures("README.md")) <= set(figures("benches/README.md"))


def test_the_readme_names_the_toolchain_that_is_needed():
    needed = re.search(r'rust-version = "([\d.]+)"', (ROOT / "Cargo.toml").read_text())[1]
    assert f"({needed} or later)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_help_shows_what_the_stub_says():
    stub = ast.parse((ROOT / "python/tollway/_core.pyi").read_text())
    (encoding,) = (node for node in stub.body if getattr(node, "name", "") == "Encoding")
    assert ast.get_docstring(encoding) == inspect.getdoc(tollway.Encoding)
    for member in encoding.body:
        if isinstance(member, ast.FunctionDef) and not member.name.startswith("__"):
            shown = inspect.getdoc(getattr(tollway.Encoding, member.name))
            assert ast.get_docstring(member) == shown, member.name
