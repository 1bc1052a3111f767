"""A place in a video, opened in a player of this machine."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

# Players that can be told where to begin, the ones that loop over a part first.
_PLAYERS: Mapping[str, Callable[[str, str], list[str]]] = {
    "mpv": lambda start, end: [f"--start={start}", f"--ab-loop-a={start}", f"--ab-loop-b={end}"],
    "vlc": lambda start, end: [f"--start-time={start}", f"--stop-time={end}"],
    "ffplay": lambda start, end: ["-ss", start],
}
_IMAGE_VIEWERS = ("xdg-open", "open")


def player_command(path: str, start_s: float, end_s: float, has: Callable[[str], bool]) -> list[str] | None:
    """Return the command that plays a file from a second on, or shows an image; None: there is no such player.

    Args:
        path: of the file.
        start_s: where to begin; equal to ``end_s``: an image.
        end_s: where the place ends.
        has: whether a program is there.
    """
    # A name that begins with a dash is no option: the path is absolute.
    target = str(Path(path).absolute())
    if start_s == end_s:
        viewer = next((viewer for viewer in _IMAGE_VIEWERS if has(viewer)), None)
        return [viewer, target] if viewer else None
    player = next((player for player in _PLAYERS if has(player)), None)
    return [player, *_PLAYERS[player](f"{start_s:.3f}", f"{end_s:.3f}"), target] if player else None


def open_place(path: str, start_s: float, end_s: float, environment: Mapping[str, str] = os.environ) -> str:
    """Open a file at its place, without waiting for the player's end.

    Returns:
        What was done, or how somebody can open it where there is no screen or no player.
    """

    def where(program: str) -> str | None:
        return shutil.which(program, path=environment.get("PATH"))

    command = player_command(path, start_s, end_s, lambda program: where(program) is not None)
    no_screen = sys.platform.startswith("linux") and not (environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))
    if command is None or no_screen:
        by_hand = command or player_command(path, start_s, end_s, lambda program: program in ("mpv", "xdg-open")) or []
        why = "there is no screen here" if no_screen else "no player that can begin at a place is here (mpv, vlc, ffplay)"
        return f"not opened, {why}; where there is one: {shlex.join(by_hand)}"
    nothing = subprocess.DEVNULL
    subprocess.Popen(
        command,
        executable=where(command[0]),
        env=dict(environment),
        stdin=nothing,
        stdout=nothing,
        stderr=nothing,
        start_new_session=True,
    )
    return f"opened: {shlex.join(command)}"
