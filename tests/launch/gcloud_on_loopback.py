"""Runs launch/tpu.sh with the real Google Cloud CLI against a small stand-in for the TPU API on the loopback interface.

For a person, not for CI: it takes a minute, and gcloud. It shows that gcloud takes every flag and format that tpu.sh
gives it, and what it then asks the API for. ssh and scp need machines; fake_gcloud.py stands in for them.

    python -m tests.launch.gcloud_on_loopback
"""

import http.server
import json
import os
import re
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

LAUNCH = Path(__file__).parents[2] / 'launch'
DONE = {'name': 'projects/p/locations/z/operations/o', 'done': True, 'response': {}}
made: dict[str, dict[str, Any]] = {}  # by the end of its address, such as nodes/pod
asked: list[str] = []


class Api(http.server.BaseHTTPRequestHandler):
    """https://cloud.google.com/tpu/docs/reference/rest/v2, as far as tpu.sh uses it."""

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, code: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        path, _, query = self.path.partition('?')
        key = '/'.join(path.split('/')[-2:])
        if 'operations/' in key:
            return self.answer(200, DONE)
        if key not in made:
            what = path.removeprefix('/v2/')
            return self.answer(
                404, {'error': {'code': 404, 'message': f"Resource '{what}' was not found.", 'status': 'NOT_FOUND'}}
            )
        if self.command == 'DELETE':
            asked.append(f'DELETE {key} {"force" if "force=True" in query else ""}'.strip())
            del made[key]
            return self.answer(200, DONE)
        self.answer(200, made[key])

    do_DELETE = do_GET

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        kind = self.path.partition('?')[0].split('/')[-1]
        name = re.findall(r'(?:nodeId|queuedResourceId)=([^&]+)', self.path)[0]
        asked.append(f'POST {kind}/{name}')
        if kind == 'nodes':
            content |= {'state': 'PREEMPTED', 'health': 'HEALTHY', 'apiVersion': 'V2'}
        else:
            content |= {'state': {'state': 'WAITING_FOR_RESOURCES'}}
        made[f'{kind}/{name}'] = content
        self.answer(200, DONE)


def main() -> None:
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            'CLOUDSDK_CONFIG': folder, 'CLOUDSDK_AUTH_DISABLE_CREDENTIALS': 'true',
            'CLOUDSDK_CORE_DISABLE_PROMPTS': '1',
            'CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU': f'http://127.0.0.1:{server.server_port}/',
            'CLOUDSDK_CORE_DISABLE_USAGE_REPORTING': 'true', 'TPU_NAME': 'pod', 'ZONE': 'us-east5-b', 'PROJECT': 'p',
            'ACCELERATOR_TYPE': 'v6e-16', 'RUNTIME_VERSION': 'v2-alpha-tpuv6e',
        }  # fmt: skip

        def tpu(words: str, says: str, code: int = 0) -> None:
            command = [LAUNCH / 'tpu.sh', *words.split()]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            print(f'launch/tpu.sh {words}: exit code {done.returncode}\n  ' + done.stdout.strip().replace('\n', '\n  '))
            assert done.returncode == code and says in done.stdout

        tpu('status', 'no TPU -> launch/tpu.sh create')
        tpu('create --queued --spot', 'Created queued_resource [pod]')
        request = made['queuedResources/pod']
        node = request['tpu']['nodeSpec'][0]
        assert 'spot' in request and node['nodeId'] == 'pod' and node['node']['labels'] == {'contrastive_jax': 'launch'}
        tpu('status', 'queued resource WAITING_FOR_RESOURCES -> wait')
        tpu('delete --yes', 'Deleted queued_resource [pod]')
        tpu('create --spot', 'Created tpu [pod]')
        node = made['nodes/pod']
        assert node['schedulingConfig']['spot'] and node['labels'] == {'contrastive_jax': 'launch'}
        tpu('logs', 'PREEMPTED, v6e-16, HEALTHY -> launch/tpu.sh delete, then create', code=1)
        tpu('delete --yes', 'Deleted tpu [pod]')
        made['nodes/pod'] = {**node, 'labels': {}}
        tpu('delete --yes', 'was not made by launch/tpu.sh', code=2)
    assert asked == [
        'POST queuedResources/pod', 'DELETE queuedResources/pod force', 'POST nodes/pod', 'DELETE nodes/pod',
    ]  # fmt: skip
    print('as expected')


if __name__ == '__main__':
    main()
