"""The command `orch schema`: print the JSON Schema of manifests, for editors."""

from __future__ import annotations

import json

import click

from orchestrator.cli import options


@options.command("schema")
@options.option("--site", is_flag=True, help="Print the schema of the site file, orch.yaml.")
def command(site: bool) -> int:
    """Print the JSON Schema of manifests, with which editors complete and check keys.

    \b
    Examples:
      orch schema > manifest.schema.json
      # then, in the first line of a manifest, for the YAML language server:
      # yaml-language-server: $schema=manifest.schema.json
    """
    from orchestrator import manifest
    from orchestrator.manifest.types import SiteDocument

    made = manifest.schema(SiteDocument) if site else manifest.schema()
    click.echo(json.dumps(made, indent=2, ensure_ascii=False))
    return 0
