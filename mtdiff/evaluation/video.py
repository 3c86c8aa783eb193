"""Short videos of an agent at work, small enough to live inside a report page."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mtdiff.environments.suite import seed_of
from mtdiff.environments.vector import VectorEnv
from mtdiff.errors import MTDiffError
from mtdiff.evaluation.agents import Agent
from mtdiff.evaluation.rollouts import checked

if TYPE_CHECKING:
    from mtdiff.environments.suite import Suite

# In a process of its own: a driver that is missing or crashes must not take the caller with it. Leaving by
# os._exit skips the clean-up in which PyOpenGL complains about EGL.
_PROBE = """
import os, mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
renderer = mujoco.Renderer(model, 16, 16)
renderer.update_scene(mujoco.MjData(model))
renderer.render()
os._exit(0)
"""


@dataclass(frozen=True, kw_only=True)
class Video:
    """An episode to look at.

    Args:
        mp4: the file's bytes: H.264, yuv420p, playable in every browser.
        success: whether the episode succeeded.
        steps: environment steps shown, the few after the success included.
        total_reward: sum of rewards over them; None if it was not kept.
    """

    mp4: bytes
    success: bool
    steps: int
    total_reward: float | None = None


@functools.cache
def why_no_video(draws_with: str | None = "mujoco") -> str | None:
    """Return None where videos can be made, else the reason in one line. Asked once per process.

    Args:
        draws_with: the suite's attribute; "mujoco" asks for its off-screen renderer too.
    """
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        return f"no video encoder: {error}"
    if draws_with != "mujoco":
        return None
    environment = {"MUJOCO_GL": "egl", **os.environ}  # as the simulator workers choose it
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "the off-screen renderer did not answer within 60 s."
    if probe.returncode == 0:
        return None
    backend = environment["MUJOCO_GL"]
    lines = [line for line in probe.stderr.splitlines() if re.match(r"[\w.]*Error: ", line)] or [
        f"exit {probe.returncode}"
    ]
    return (
        f"no off-screen renderer (MUJOCO_GL={backend}): {lines[0].rstrip('.')}. On Debian and Ubuntu: "
        "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri"
    )


def record_all(
    agent: Agent,
    suite: Suite,
    tasks: Sequence[str] | None = None,
    *,
    seed: int = 0,
    size: int = 240,
    every: int = 2,
    fps: int = 20,
    max_steps: int = 250,
    linger: int = 16,
    workers: int | None = None,
) -> dict[str, Video]:
    """Record one episode of every task, all of them in one batch.

    Goals come from `seed_of(seed, "video", task, 0)`: neither training's nor evaluation's, and not picked.

    Args:
        agent: what acts.
        suite: where the tasks live.
        tasks: names among `suite.tasks`; all by default.
        seed: goals and the agent's noise follow from it.
        size: width and height in pixels, even.
        every: environment steps per frame.
        fps: frames per second of the film.
        max_steps: an episode without success is cut here.
        linger: steps shown after the first success, so that the success can be seen.
        workers: simulator processes; one per CPU by default.

    Raises:
        MTDiffError: an odd `size`, or `why_no_video()` has a reason.
        EnvironmentFault: a simulator failed.
    """
    if size < 2 or size % 2:
        raise MTDiffError(f"video size: should be even, because H.264 stores colour at half size, got {size}.")
    if reason := why_no_video(getattr(suite, "draws_with", "mujoco")):
        raise MTDiffError(reason)
    tasks = list(suite.tasks if tasks is None else tasks)
    limit = min(max_steps, suite.max_steps)
    seeds = [seed_of(seed, "video", task, 0) for task in tasks]
    frames: list[list[np.ndarray]] = [[] for _ in tasks]
    steps = np.zeros(len(tasks), int)
    last = np.full(len(tasks), limit)  # the step after which a slot's film ends
    success, total_reward = np.zeros(len(tasks), bool), np.zeros(len(tasks))
    with VectorEnv(suite, tasks, workers=workers, render=True) as env:
        live = np.arange(len(tasks))
        states = env.reset(seeds, slots=live)
        agent.reset(tasks, seeds)
        shown = live
        while True:
            for slot, frame in zip(shown, env.render(shown, size) if shown.size else (), strict=True):
                frames[slot].append(np.asarray(frame))
            if not live.size:
                break
            out = env.step(checked(agent.act(states, live), live.size, suite.action_dim), live)
            steps[live] += 1
            total_reward[live] += out.rewards
            first = live[np.asarray(out.success, bool) & ~success[live]]
            success[first] = True
            last[first] = np.minimum(steps[first] + linger, suite.max_steps)
            ended = out.terminated | out.truncated | (steps[live] >= last[live])
            shown = live[ended | (steps[live] % every == 0)]  # always the last one
            live, states = live[~ended], out.states[~ended]
    return {
        task: Video(
            mp4=encode(frames[i], fps=fps),
            success=bool(success[i]),
            steps=int(steps[i]),
            total_reward=float(total_reward[i]),
        )
        for i, task in enumerate(tasks)
    }


def record(agent: Agent, suite: Suite, task: str, **arguments: int) -> Video:
    """Record one episode of one task; arguments as in `record_all`."""
    return record_all(agent, suite, [task], **arguments)[task]


def encode(frames: Sequence[np.ndarray], *, fps: int = 20) -> bytes:
    """Return frames (h, w, 3) uint8, h and w even, as the bytes of an MP4 file.

    The last frame is held for a second, because the film will run in a loop.
    """
    import imageio_ffmpeg

    height, width, _ = frames[0].shape
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "film.mp4")
        writer = imageio_ffmpeg.write_frames(
            str(path),
            (width, height),
            fps=fps,
            codec="libx264",
            pix_fmt_out="yuv420p",
            quality=None,
            macro_block_size=2,
            ffmpeg_log_level="error",
            # faststart puts the index in front: a film inside a page is played while it is being decoded.
            output_params=["-crf", "23", "-preset", "slow", "-movflags", "+faststart"],
        )
        writer.send(None)
        for frame in [*frames, *[frames[-1]] * fps]:
            writer.send(np.ascontiguousarray(frame))
        writer.close()
        return path.read_bytes()
