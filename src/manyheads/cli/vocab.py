"""`manyheads vocab CORPUS…` or `manyheads vocab RECIPE`"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from manyheads.cli.options import Quiet

if TYPE_CHECKING:
    from manyheads.data.corpus import Part
    from manyheads.data.documents import Documents
    from manyheads.encoder.clean import Cleaner


def vocab(
    corpus: Annotated[
        list[Path],
        typer.Argument(
            help="Files or folders of documents: txt, jsonl, parquet, csv; .gz of the text ones. Or a recipe "
            "(.yaml): what its tasks of kind mlm and nsp read for training, as they read it.",
            show_default=False,
        ),
    ],
    size: Annotated[int, typer.Option("--size", help="Tokens of the vocabulary, at most.")] = 30522,
    cased: Annotated[bool, typer.Option("--cased", help="Keep upper case and accents.")] = False,
    chinese: Annotated[
        bool, typer.Option("--chinese", help="A token for every Chinese character, however many there are.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="The folder to write.")] = Path("vocabulary"),
    text: Annotated[
        str, typer.Option("--text", help="The column with the text, where there are columns.")
    ] = "text",
    limit: Annotated[
        int | None, typer.Option("--limit", help="Read only so many documents.", show_default=False)
    ] = None,
    min_frequency: Annotated[
        int, typer.Option("--min-frequency", help="How often a piece must come to get a token.")
    ] = 2,
    unused: Annotated[
        int, typer.Option("--unused", help="Free places [unused1] … after the special tokens.")
    ] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="A broken document is an error.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a WordPiece vocabulary: a folder that recipes and transformers load as a tokenizer."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from manyheads.data.documents import Documents, DocumentSettings, shards
    from manyheads.data.sentences import bounded
    from manyheads.encoder.vocabulary import train_vocabulary
    from manyheads.errors import InputError

    for name, value, least in (("--limit", limit, 1), ("--unused", unused, 0)):
        if value is not None and value < least:
            raise InputError(f"{name}: found {value}, expected {least} or more")
    if out.is_dir() and any(out.iterdir()):
        raise InputError("the folder exists and is not empty; choose another with --out", file=out)
    if out.exists() and not out.is_dir():
        raise InputError("is a file, expected a folder that is new or empty", file=out)
    if any(path.suffix in (".yaml", ".yml") for path in corpus):
        if len(corpus) > 1:
            raise InputError("expected either files and folders of documents or one recipe")
        if text != "text":
            raise InputError("--text: a recipe says itself which column has the text")
        sources = _of_recipe(corpus[0], strict)
    else:
        sources = [_Source(Documents(shards(corpus), DocumentSettings(text=text, strict=strict)))]
    total = sum(source.documents.bytes_in_all for source in sources)
    console = Console(stderr=True, quiet=quiet)
    passes = given = 0
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=quiet or not console.is_terminal,
    ) as progress:
        bar = progress.add_task("characters", total=total)

        def texts() -> Iterator[str]:
            nonlocal passes, given
            passes += 1
            progress.reset(bar, description="characters" if passes == 1 else "words")
            every = (text for source in sources for text in source.texts())
            for one in islice(every, limit):
                given += 1
                yield from bounded(one)
                progress.update(bar, completed=sum(source.documents.bytes_read for source in sources))
            progress.update(bar, completed=total)
            if passes == 2:
                progress.update(bar, description="merging")

        try:
            trained = train_vocabulary(
                texts, size=size, cased=cased, chinese=chinese, min_frequency=min_frequency, unused=unused
            )
        except InputError:
            problems = [problem for source in sources for problem in source.documents.problems]
            if problems and not given:  # why there is no text says more than that there is none
                raise problems[0].error() from None
            raise
    trained.tokenizer.save_pretrained(out)
    if quiet:
        return
    typer.echo(f"{out}: {trained.tokenizer.vocab_size:,} tokens from {trained.characters:,} characters")
    share = trained.unknown / trained.characters
    hint = "; --chinese gives every Chinese character one" if share > 0.01 and not chinese else ""
    if trained.unknown:
        typer.echo(f"{trained.unknown:,} characters ({share:.2%}) have no token and are [UNK]{hint}")
    if skipped := sum(source.documents.skipped for source in sources):
        typer.echo(f"{skipped:,} broken documents were left out", err=True)
        for problem in [problem for source in sources for problem in source.documents.problems][:10]:
            typer.echo(f"  {problem}", err=True)


class _Source(NamedTuple):
    """Some documents, how their lines are cleaned, and which of them are taken."""

    documents: "Documents"
    clean: "Cleaner | None" = None
    part: "Part | None" = None

    def texts(self) -> Iterator[str]:
        """The documents as a training reads them."""
        from manyheads.data.corpus import in_part
        from manyheads.encoder.clean import by_line

        for one in self.documents:
            text = by_line(one.text, self.clean)
            if self.part is None or in_part(text, self.part):
                yield text


def _of_recipe(path: Path, strict: bool) -> list[_Source]:
    """The documents that a recipe's tasks learn from, each file once: without those that are held out."""
    from manyheads.data.documents import Documents, DocumentSettings, shards
    from manyheads.errors import InputError
    from manyheads.recipe import Recipe
    from manyheads.tasks.documents import DocumentSettings as DocumentTask
    from manyheads.training.documents import documents_of

    recipe = Recipe.load(path)
    found: list[_Source] = []
    taken: list[tuple[Path, DocumentSettings, Cleaner | None, Part | None]] = []
    for section in recipe.tasks.values():
        if not isinstance(section, DocumentTask) or not section.files or "train" not in section.files:
            continue
        named, settings, part = documents_of(section, "train")
        settings = settings.model_copy(update={"strict": strict or settings.strict})
        root = Path(recipe.data or ".")
        files = shards([root / each for each in named], any_name=settings.format != "auto")
        others = [one for one in files if (one, settings, section.clean, part) not in taken]
        taken += [(one, settings, section.clean, part) for one in others]
        if others:
            found.append(_Source(Documents(others, settings), section.clean, part))
    if not found:
        raise InputError("has no task of kind mlm or nsp with files for training", file=path)
    return found
