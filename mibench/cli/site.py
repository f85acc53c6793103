"""``mibench site``."""

from __future__ import annotations

from pathlib import Path

import click

from mibench.cli.common import Images, Workspace, plugin_option, workspace


@click.group()
def site() -> None:
    """The leaderboard as static pages."""


@site.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="A folder [the one in MIBENCH_HOME].")
@click.option(
    "--images",
    type=click.Choice(["none", "sample", "all"]),
    default="all",
    show_default=True,
    help="Reconstructions of no identity, of a few of each run, or of all.",
)
@click.option("--public", is_flag=True, help="Leave out private images: what may be published.")
@click.option(
    "--docs",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The built documentation, to be a part of the site.",
)
@plugin_option
@workspace
def build(ws: Workspace, out: Path | None, images: Images, public: bool, docs: Path | None) -> None:
    """Build the leaderboard from everything in the database and in results/.

    \b
    Examples:
      mibench site build --public --out public_site
      mibench site build --docs public_docs
    """
    click.echo(str(ws.build_site(out, images, public, docs)))


@site.command()
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@plugin_option
@workspace
def serve(ws: Workspace, port: int) -> None:
    """Build the leaderboard and serve it to this machine only.

    \b
    Example:
      mibench site serve --port 8000
    """
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    from mibench.errors import MissingError

    index = ws.build_site()
    try:
        server = ThreadingHTTPServer(
            ("127.0.0.1", port), partial(SimpleHTTPRequestHandler, directory=str(index.parent))
        )
    except OSError as error:
        raise MissingError(f"Port {port} cannot be used ({error.strerror}). Choose another with --port.") from None
    click.echo(f"http://127.0.0.1:{server.server_address[1]}/ (Ctrl-C stops)")
    with server:
        server.serve_forever()
