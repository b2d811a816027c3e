"""A Slurm of one node on this machine, with daemons, ports and a folder of its own."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
_STARTS_WITHIN = 30

# Credentials expire quickly: a requeued job waits until those of its last start have.
_CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not():
    """Why there can be no Slurm here, None if there can."""
    for daemon in DAEMONS:
        if _path_of(daemon) is None:
            return f"{daemon} is not installed (Debian: apt install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "only root can start slurmd"


@contextmanager
def one_node_slurm():
    """Start it, and yield the path of its configuration (``SLURM_CONF``)."""
    # Not below pytest's folders: those only their owner may enter, which munged refuses.
    with tempfile.TemporaryDirectory(prefix="slurm-") as name, ExitStack() as running:
        folder = Path(name)
        folder.chmod(0o755)
        for part in ("munge", "state", "spool"):
            (folder / part).mkdir(mode=0o755)
        config = folder / "slurm.conf"
        host = socket.gethostname().partition(".")[0]
        config.write_text(_CONFIG.format(host=host, ports=_free_ports(2), folder=folder))
        munge = folder / "munge"
        (munge / "key").write_bytes(os.urandom(64))
        (munge / "key").chmod(0o600)
        places = [f"--{part}-file={munge / part}" for part in ("key", "pid", "log", "seed")]
        running.enter_context(
            _daemon(["munged", "--foreground", f"--socket={munge / 'socket'}", *places])
        )
        _wait(lambda: (munge / "socket").exists(), folder)
        environment = {**os.environ, "SLURM_CONF": str(config)}
        running.enter_context(_daemon(["slurmctld", "-D", "-f", str(config)], environment))
        running.enter_context(_daemon(["slurmd", "-D", "-f", str(config)], environment))
        _wait(lambda: "idle" in _said(["sinfo", "--noheader"], environment), folder)
        yield config


@contextmanager
def _daemon(command, environment=None):
    process = subprocess.Popen(
        [_path_of(command[0]), *command[1:]],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _path_of(daemon):
    return shutil.which(daemon, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _free_ports(count):
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _said(command, environment):
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout


def _wait(ready, folder):
    until = time.monotonic() + _STARTS_WITHIN
    while not ready():
        if time.monotonic() > until:
            logs = [path.read_text(errors="replace")[-2000:] for path in folder.glob("*.log")]
            raise RuntimeError("Slurm does not start:\n" + "\n".join(logs))
        time.sleep(0.2)
