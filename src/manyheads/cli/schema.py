"""`manyheads schema`"""

import json

import typer


def schema() -> None:
    """Print the JSON schema of recipes, for editors that complete and check YAML."""
    from manyheads.recipe import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
