"""Section ``sandbox``: what engine processes may touch."""

from __future__ import annotations

from typing import Literal

from modelium.config.fields import Directory, Section, setting


class SandboxSection(Section):
    """Confinement of the engines that Modelium starts, by the kernel's Landlock."""

    mode: Literal["auto", "off", "required"] = setting(
        "auto",
        "Whether engines are confined: `auto` where the kernel can, `required`: nothing loads "
        "where it cannot, `off`.",
        why="Auto: kernels before 5.13 have no Landlock; `modelium doctor` says so.",
    )
    writable: tuple[Directory, ...] = setting(
        (),
        "Folders that engines may change beside their own, such as a cache or `/tmp`.",
        why="None: an engine has a folder for temporary files and its caches.",
    )
