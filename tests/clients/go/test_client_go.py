"""Runs what ./run has built against a cluster of its own."""

import os
import subprocess


def test_programs_built_on_client_go_run_unchanged(cluster):
    command = [os.environ["CLIENT_GO"], cluster.kubeconfig, "e2e.test/busybox:1"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
