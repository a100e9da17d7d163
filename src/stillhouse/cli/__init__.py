"""The command line: one module per verb, no logic of its own.

`main` is the entry point; `command` the click group. Verbs import what they need when they run,
so that `stillhouse --help` and the base install work without torch. Exit codes: `exits`.
"""

from __future__ import annotations

import sys

import click

import stillhouse
from stillhouse.cli.accounts import accounts
from stillhouse.cli.distill import distill
from stillhouse.cli.doctor import doctor
from stillhouse.cli.exits import MEANINGS, Exit
from stillhouse.cli.export import export
from stillhouse.cli.gateway import gateway
from stillhouse.cli.init import init
from stillhouse.cli.judge import judge
from stillhouse.cli.probe import probe
from stillhouse.exchanges import InputError

__all__ = ["Exit", "command", "main"]

EXIT_CODES = "\n".join(f"  {code.value:>3}  {meaning}" for code, meaning in MEANINGS.items())


HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(
    context_settings=HELP,
    epilog="\b\nExit codes:\n" + EXIT_CODES,
)
@click.version_option(stillhouse.__version__, prog_name="stillhouse")
def command() -> None:
    """Distil a teacher you may distil into a smaller student, and judge whether it is as good.

    \b
    Start here:
      stillhouse init my-task --data prompts.jsonl
      stillhouse distill my-task/recipe.yaml
    """


for verb in (init, distill, judge, export, gateway, probe, accounts, doctor):
    # click keeps a command's help option from its first use, with or without the group around it.
    verb.context_settings.update(HELP)
    command.add_command(verb)


def main() -> None:
    """Run the command line and leave with a documented exit code."""
    try:
        code = command.main(standalone_mode=False)
    except InputError as error:
        click.echo(f"stillhouse: {error}", err=True)
        code = Exit.INPUT
    except click.exceptions.Abort:
        click.echo("stillhouse: interrupted; the same command goes on from here", err=True)
        code = Exit.INTERRUPTED
    except KeyboardInterrupt:
        click.echo("stillhouse: interrupted; the same command goes on from here", err=True)
        code = Exit.INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = Exit.USAGE
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "stillhouse":
            raise
        click.echo(
            f"stillhouse: {error.name} is not installed\n"
            "  repair: pip install 'stillhouse[distill]'",
            err=True,
        )
        code = Exit.INPUT
    sys.exit(int(code or 0))
