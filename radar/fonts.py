"""A font for letters that the usual one lacks: class names are folder names, and may be Chinese."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

USUAL = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
# What systems with Chinese, Japanese or Korean letters have, by the names that matplotlib gives them.
FAMILIES = (
    *("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "Noto Sans CJK JP"),
    *("WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB"),
    *("Heiti TC", "STHeiti", "Arial Unicode MS", "Droid Sans Fallback", "AR PL UMing CN", "Malgun Gothic"),
)


@cache
def installed() -> dict[str, str]:
    """Those of ``FAMILIES`` that this machine has, each with a file, in their order."""
    found: dict[str, str] = {}
    for font in sorted(font_manager.fontManager.ttflist, key=lambda font: abs(_weight(font.weight) - 400)):
        found.setdefault(font.name, font.fname)
    return {name: found[name] for name in FAMILIES if name in found}


def _weight(weight: int | str) -> int:
    return weight if isinstance(weight, int) else font_manager.weight_dict.get(weight, 400)


@cache
def font_for(text: str) -> str:
    """The file of a font that has all letters of ``text``; the usual one where none has, which draws boxes then."""
    return next((file for file in (str(USUAL), *installed().values()) if _has(file, text)), str(USUAL))


def _has(file: str, text: str) -> bool:
    try:
        font = FT2Font(file)
    except (OSError, RuntimeError):  # removed since matplotlib listed it, or damaged
        return False
    return all(font.get_char_index(ord(letter)) for letter in text if not letter.isspace())


def let_matplotlib_find_letters() -> None:
    """Let figures take from ``installed`` fonts the letters that the usual one lacks, and draw boxes without a word."""
    usual = [name for name in matplotlib.rcParams["font.family"] if name not in FAMILIES]
    matplotlib.rcParams["font.family"] = [*usual, *installed()]
    warnings.filterwarnings("ignore", r"Glyph .* missing from")
