"""Drives an installed Chromium through its DevTools protocol, on pipes (https://chromedevtools.github.io/devtools-protocol/)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "headless_shell")
FOUND = next(filter(None, map(shutil.which, NAMES)), None)
"""The browser's path; None if none is installed."""

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--remote-debugging-pipe",
)
# the browser reads commands from descriptor 3 and writes answers to descriptor 4
LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for end, place in zip(ends, (3, 4)):
    os.dup2(end, place)
os.execv(sys.argv[3], sys.argv[3:])
"""
TIMEOUT = 120
COMPLAINTS = {"Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled", "Page.javascriptDialogOpening"}


class Tab:
    """A page in the browser; `complaints` has what its console said and the dialogs it opened."""

    def __init__(self, commands, answers):
        self.commands, self.answers, self.session, self.number = commands, answers, None, 0
        self.complaints, self.events = [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """The result of a command."""
        self.number += 1
        command = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            command["sessionId"] = self.session
        self.commands.write(json.dumps(command).encode() + b"\0")
        self.commands.flush()
        while (answer := self.read()).get("id") != self.number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def read(self):
        """The next message."""
        found = bytearray()
        while (byte := self.answers.read(1)) != b"\0":
            assert byte, "the browser went away"
            found += byte
        message = json.loads(found)
        if message.get("method") in COMPLAINTS:
            self.complaints.append(message["params"])
        self.events.append(message.get("method"))
        return message

    def open(self, path, *, width, scheme="light"):
        """Opens a file at a width in pixels, with the colors of a scheme."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while "Page.loadEventFired" not in self.events:
            self.read()

    def evaluate(self, expression):
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")


@contextmanager
def tab(folder):
    """A tab of a new browser whose profile is in `folder`; the browser is killed at the end, or after TIMEOUT."""
    here_read, there_write = os.pipe()
    there_read, here_write = os.pipe()
    command = [sys.executable, "-c", LAUNCH, str(there_read), str(there_write), FOUND, *FLAGS, f"--user-data-dir={folder}"]
    with (
        subprocess.Popen(
            command, pass_fds=(there_read, there_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process,
        os.fdopen(here_read, "rb") as answers,
        os.fdopen(here_write, "wb") as commands,
    ):
        os.close(there_read)
        os.close(there_write)
        timer = threading.Timer(TIMEOUT, process.kill)
        timer.start()
        try:
            yield Tab(commands, answers)
        finally:
            timer.cancel()
            process.kill()
