"""A headless Chromium that runs scripts: it asks a server in this process for them, one by one."""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
     if (found := shutil.which(name))),
    None,
)  # fmt: skip
WEBGPU = ("--enable-unsafe-webgpu", "--enable-features=Vulkan", "--use-webgpu-adapter=swiftshader")
WAIT = 300
RUNNER = """<!doctype html><meta charset="utf-8"><body><script type="module">
for (;;) {
  const task = await (await fetch("/task")).text();
  if (!task) continue;
  let answer;
  try { answer = { value: await (await import(task)).result } }
  catch (error) { answer = { error: String(error?.stack ?? error) } }
  await fetch("/answer", { method: "POST", body: JSON.stringify(answer) });
}
</script>"""


class Browser:
    """A running browser, and the folders that it sees as paths: `{"page": folder}` is /page/."""

    def __init__(self, folders: dict[str, Path], flags: Sequence[str] = ()) -> None:
        assert CHROMIUM is not None
        self.tasks: queue.Queue[str] = queue.Queue()
        self.answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self.folders, self.scripts = dict(folders), 0
        self.own = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.folders["scripts"] = Path(self.own.name) / "scripts"
        self.folders["scripts"].mkdir()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{self.server.server_port}/"
        self.process = subprocess.Popen(
            [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-dev-shm-usage",
             "--no-first-run", f"--user-data-dir={self.own.name}/profile", *flags, address],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, script: str) -> Any:
        """What a module exports as `result`, or the promise of it gives."""
        self.scripts += 1
        name = f"{self.scripts}.mjs"
        (self.folders["scripts"] / name).write_text(script, "utf-8")
        self.tasks.put(f"/scripts/{name}")
        answer = self.answers.get(timeout=WAIT)
        assert "error" not in answer, answer["error"]
        return answer.get("value")

    def close(self) -> None:
        """Ends the browser and the server."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.server.shutdown()
        self.server.server_close()
        self.own.cleanup()

    def _handler(self) -> type[SimpleHTTPRequestHandler]:
        browser = self

        class Handler(SimpleHTTPRequestHandler):
            extensions_map = SimpleHTTPRequestHandler.extensions_map | {
                ".mjs": "text/javascript",
                ".js": "text/javascript",
                ".wasm": "application/wasm",
            }

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

            def translate_path(self, path: str) -> str:
                first, _, rest = path.partition("?")[0].lstrip("/").partition("/")
                folder = browser.folders.get(first)
                if first == "page" and rest.startswith("node_modules/"):
                    folder, rest = browser.folders["node_modules"], rest.partition("/")[2]
                return str(folder / rest) if folder else "/nowhere"

            def do_GET(self) -> None:
                if self.path == "/":
                    self._say(RUNNER, "text/html")
                elif self.path == "/task":
                    try:
                        self._say(browser.tasks.get(timeout=5), "text/plain")
                    except queue.Empty:
                        self._say("", "text/plain")
                else:
                    super().do_GET()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                browser.answers.put(json.loads(body))
                self._say("", "text/plain")

            def _say(self, text: str, kind: str) -> None:
                data = text.encode()
                with contextlib.suppress(ConnectionError):  # a browser that was ended meanwhile
                    self.send_response(200)
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

        return Handler
