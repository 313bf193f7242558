"""`tidemill deploy`: checks first, then the app goes to Modal."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click
import msgspec

from pipeline.cli.options import Target, on_bucket
from pipeline.cli.render import as_json
from pipeline.declare.load_file import is_path, load_pipelines
from pipeline.deploy.deployment import VARIABLES, Deployment, checked
from pipeline.deploy.engines import app_name
from pipeline.errors import SettingsError
from pipeline.runtime import feasibility


@click.command(
    "deploy",
    epilog="Example:  tidemill deploy flows.py --bucket s3://my-bucket --secret my-bucket-keys",
)
@on_bucket
@click.option(
    "--app",
    envvar=VARIABLES["app"],
    default="",
    help="the app's name [default: tidemill-<first pipeline>]",
)
@click.option(
    "--secret", envvar=VARIABLES["secret"], help="the Modal secret with the bucket's AWS keys"
)
@click.option(
    "--oidc-role",
    "role",
    envvar=VARIABLES["oidc_role_arn"],
    metavar="ARN",
    help="or the AWS role to assume",
)
@click.option(
    "--environment", "-e", envvar="MODAL_ENVIRONMENT", help="the Modal environment to deploy to"
)
@click.option(
    "--mount-root",
    envvar=VARIABLES["mount_root"],
    default="/mnt/tidemill",
    help="where containers see the bucket",
)
@click.option("--dry-run", is_flag=True, help="check and show what would be deployed; send nothing")
def deploy_command(  # noqa: PLR0917
    target: Target,
    app: str,
    secret: str | None,
    role: str | None,
    environment: str | None,
    mount_root: str,
    dry_run: bool,
) -> int:
    """Deploy FILE's pipelines to Modal: scheduled passes, workers for each transform, commits,
    aggregates, a hint endpoint.

    Everything that Modal's client takes without a look and its servers refuse, or that would never
    run, is refused here.
    """
    _require_feasible(target)
    wanted = Deployment(
        file=_absolute(target.file),
        bucket=target.bucket.url,
        endpoint_url=target.bucket.endpoint_url,
        region=target.bucket.region,
        app=app,
        secret=secret,
        oidc_role_arn=role,
        mount_root=mount_root,
        environment=environment,
    )
    deployment = checked(wanted, target.pipelines, _usual_app(wanted.file))
    os.environ.update(deployment.variables())
    found, functions = _app()
    if not dry_run:
        _send(found, deployment, quiet=target.as_json)
    _show(target, deployment, functions, deployed=not dry_run)
    return 0


def _require_feasible(target: Target) -> None:
    for pipeline in target.pipelines:
        feasibility.declared(pipeline).require()


def _usual_app(file: str) -> str:
    """The app's name by all pipelines of FILE, also where one of them is deployed alone."""
    return app_name(load_pipelines(file.partition(":")[0]))


def _absolute(file: str) -> str:
    """FILE as it is found from any directory; the name of a module as it is."""
    return os.path.abspath(file) if is_path(file.partition(":")[0]) else file  # noqa: PTH100


def _show(target: Target, deployment: Deployment, functions: list[str], *, deployed: bool) -> None:
    if target.as_json:
        settings = msgspec.to_builtins(deployment)
        head = {"app": deployment.app, "deployed": deployed, "functions": functions}
        as_json({**head, **settings})
        return
    verb = "deployed" if deployed else "would deploy"
    click.echo(f"{verb} {deployment.app} for {deployment.bucket}: {', '.join(functions)}")
    for p in target.pipelines:
        click.echo(
            f"  {p.name}: looks for new files at {_when(p.deployment.schedule)}"
            f" ({p.deployment.timezone})"
        )


def _when(schedule: str | float | None) -> str:
    return f"every {schedule:g} s" if isinstance(schedule, float) else repr(schedule)


def _app() -> tuple[Any, list[str]]:
    """The app, as its module builds it from the environment, and its functions' names."""
    try:
        import modal
    except ModuleNotFoundError:
        raise SettingsError(
            "Modal's client is not installed: pip install 'tidemill[modal]'"
        ) from None
    sys.modules.pop("infra.modal_app", None)
    module = importlib.import_module("infra.modal_app")
    return module.app, sorted(
        name
        for name, value in vars(module).items()
        if isinstance(value, modal.Function | modal.Cls)
    )


def _send(app: Any, deployment: Deployment, *, quiet: bool) -> None:
    import contextlib

    import modal

    from pipeline.executors.modal import explained_modal

    shown = contextlib.nullcontext() if quiet else modal.enable_output()
    missing = "make it first, with  modal secret create  or  modal volume create"
    with explained_modal("deploy", missing=missing), shown:
        app.deploy(name=deployment.app, environment_name=deployment.environment)
