"""A hub on this machine: the few answers of the real one that downloads depend on."""

import contextlib
import hashlib
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ZEN = "zen-E/CODI-llama3.2-1b-Instruct"
GPT2 = "openai-community/gpt2"
SIM_COT = "internlm/SIM_COT-LLaMA3-CODI-1B"
CYWINSKI = "bcywinski/codi_llama1b-answer_only"
META, MIRROR = "meta-llama/Llama-3.2-1B-Instruct", "unsloth/Llama-3.2-1B-Instruct"
BASE_FILES = ["config.json", "tokenizer.json", "tokenizer_config.json"]
TOKENIZER_FILES = BASE_FILES[1:]
QUESTION = "A team starts with 3 members. How many people are there now?"


COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "fedcba9876543210fedcba9876543210fedcba98"


class FakeHub:
    """Serves folders as repositories, remembers what was asked for, and can refuse.

    Attributes:
        repositories: hub id -> {revision: folder}; the revision "main" has to be there.
        gated: hub ids that only say so.
        requests: (method, hub id, revision, file name), in order.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Path]] = {}
        self.gated: set[str] = set()
        self.requests: list[tuple[str, str, str, str]] = []

    def files(self, method: str = "GET") -> list[str]:
        """Names of the files downloaded (or of those asked about, with "HEAD")."""
        return [name for how, _, _, name in self.requests if how == method]

    def answer(self, repository: str, revision: str, name: str) -> tuple[int, dict, bytes]:
        """Status, headers and body for one file."""
        if repository in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if repository not in self.repositories:
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        revisions = self.repositories[repository] | {COMMIT: self.repositories[repository]["main"]}
        if revision not in revisions:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        commit = COMMIT if revision in ("main", COMMIT) else OTHER
        path = revisions[revision] / name
        if not path.is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        body = path.read_bytes()
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        return 200, {"X-Repo-Commit": commit, "ETag": etag}, body


@contextlib.contextmanager
def serve(hub: FakeHub):
    """Runs the hub; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self.reply("HEAD")

        def do_GET(self):
            self.reply("GET")

        def reply(self, method):
            owner, name, _, revision, *rest = self.path.strip("/").split("/")
            key = (f"{owner}/{name}", revision, "/".join(rest))
            hub.requests.append((method, *key))
            status, headers, body = hub.answer(*key)
            self.send_response(status)
            for field, value in headers.items():
                self.send_header(field, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if method == "GET":
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def fill_cache(cache: Path, repository: str, folder: Path, names: list[str] | None = None) -> Path:
    """Puts files of `folder` where the hub's client keeps those that it downloaded."""
    storage = cache / f"models--{repository.replace('/', '--')}"
    snapshot = storage / "snapshots" / COMMIT
    for part in (snapshot, storage / "blobs", storage / "refs"):
        part.mkdir(parents=True, exist_ok=True)
    (storage / "refs" / "main").write_text(COMMIT)
    for path in sorted(folder.iterdir()):
        if names is None or path.name in names:
            body = path.read_bytes()
            blob = storage / "blobs" / hashlib.sha256(body).hexdigest()
            blob.write_bytes(body)
            (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


def only(source, target, names):
    """A folder with some of another's files."""
    target.mkdir(parents=True)
    for name in names:
        shutil.copy(source / name, target / name)
    return target
