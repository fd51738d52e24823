"""``modelium prefect``: what Prefect's own command line needs to reach this service's server."""

from __future__ import annotations

import os
import shlex

import typer

from modelium.cli.options import ConfigFile, Json
from modelium.cli.output import print_json
from modelium.config import Config
from modelium.config.hosts import authority
from modelium.config.loading import load
from modelium.control import addresses
from modelium.errors import InputError, ModeliumError

AUTH_VARIABLE = "PREFECT_SERVER_API_AUTH_STRING"

app = typer.Typer(no_args_is_help=True, help="Use Prefect's own command line and UI.")


@app.callback()
def _group() -> None:
    """Keep `env` a command of its own, since a group of one command would be that command."""


@app.command("env")
def environment(config: ConfigFile = None, json_: Json = False) -> None:
    """Print address and credentials of the Prefect server: eval "$(modelium prefect env)".

    The UI asks for the same credentials.
    """
    found = variables(load(config, os.environ))
    if json_:
        print_json(found)
    else:
        typer.echo("\n".join(f"export {name}={shlex.quote(text)}" for name, text in found.items()))


def variables(config: Config) -> dict[str, str]:
    """Return the variables that Prefect's clients read.

    Raises:
        InputError: there is no server, or only others may read its credentials.
        ModeliumError: it has not been started yet.
    """
    if not config.prefect.enabled:
        raise InputError("prefect.enabled is false: there is no Prefect server")
    if config.prefect.api_url:
        return {"PREFECT_API_URL": config.prefect.api_url}  # its credentials are not ours
    section, file = config.prefect, config.prefect_credentials()
    url = addresses.read(config.orchestration.state).get("prefect_api")
    found = {"PREFECT_API_URL": url or f"http://{authority(section.host, section.port)}/api"}
    try:
        auth = os.environ.get(AUTH_VARIABLE) or file.read_text().strip()
    except FileNotFoundError as exc:
        if not url:
            raise ModeliumError(
                "Modelium has not run with this configuration yet, so that its Prefect server has "
                "no credentials: start it with `modelium up`, then try again"
            ) from exc
        auth = ""  # the service has a server of others
    except OSError as exc:
        raise InputError(
            f"cannot read {file} ({exc.strerror}); run the command as the user of the service"
        ) from exc
    return {**found, "PREFECT_API_AUTH_STRING": auth} if auth else found
