"""The pages of the documentation in parts: blocks of code, prose, sections, tables."""

import functools
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ('README.md', *sorted(f'docs/{file.name}' for file in (ROOT / 'docs').glob('*.md')))
OTHERS = tuple(
    page
    for page in (
        'launch/README.md',
        'benchmarks/README.md',
        'CONTRIBUTING.md',
        'CHANGELOG.md',
        'tests/golden/README.md',
    )
    if (ROOT / page).exists()
)


@functools.cache
def text(page: str) -> str:
    """A page, by its path in the repository."""
    return (ROOT / page).read_text(encoding='utf-8')


def blocks(page: str, language: str) -> list[str]:
    """The blocks of code in a language."""
    return re.findall(rf'^```{language}\n(.*?)^```', text(page), re.DOTALL | re.MULTILINE)


def prose(page: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r'^```.*?^```', '', text(page), flags=re.DOTALL | re.MULTILINE)


def section(page: str, title: str) -> str:
    """The text below a heading of the second level."""
    return text(page).split(f'\n## {title}\n')[1].split('\n## ')[0]


def rows(part: str) -> list[list[str]]:
    """The cells of all tables in a part of a page, without the lines above and below the head."""
    lines = [line.strip('|').split(' | ') for line in re.findall(r'^\|.*\|$', part, re.MULTILINE)]
    return [[cell.strip() for cell in line] for line in lines if not line[0].startswith('---')]


def coded(cell: str) -> list[str]:
    """What a cell has in backticks."""
    return re.findall(r'`([^`]+)`', cell)
