"""A real Slurm on the loopback device: two nodes on this machine, with or without accounting."""

import contextlib
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol", "squeue")
NEEDED_FOR_ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb-install-db")

CONF = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
KillWait=5
SlurmdTimeout=10
SlurmctldTimeout=30
MessageTimeout=10
InactiveLimit=0
MinJobAge=300
JobRequeue=1
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters={parameters}
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
NodeName=node[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{node_port}-{last_port}] CPUs=4 RealMemory=4000
PartitionName=low Nodes=node[1-2] Default=YES PriorityTier=1 GraceTime=20 MaxTime=INFINITE State=UP OverSubscribe=NO
PartitionName=blunt Nodes=node[1-2] PriorityTier=1 GraceTime=0 MaxTime=INFINITE State=UP OverSubscribe=NO
PartitionName=high Nodes=node[1-2] PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP OverSubscribe=NO
{accounting}
"""
ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStoragePass={folder}/munge.socket
JobAcctGatherType=jobacct_gather/linux
AccountingStorageEnforce=limits
"""
DBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={sql_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
"""


def find_missing(accounting: bool = False) -> list[str]:
    """Return the programs that are not installed, and "root" if not run as root."""
    names = NEEDED + (NEEDED_FOR_ACCOUNTING if accounting else ())
    missing = [name for name in names if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    return missing + (["root"] if os.geteuid() else [])


class Cluster:
    """Start and stop the daemons of two nodes with four CPUs each; a daemon is ended by its pid file.

    Partitions: low (preempted with a warning and 20 s), blunt (preempted without notice), high (preempts both).
    """

    def __init__(self, folder: Path, accounting: bool = False) -> None:
        self.folder, self.accounting = folder, accounting
        self.folder.chmod(0o755)
        self.host = platform.node().partition(".")[0]
        self.ports = _free_ports(6)
        self.conf = folder / "slurm.conf"
        self._data: Path | None = None
        self._database: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start everything and set SLURM_CONF for this process."""
        ctld, node, node2, dbd, self.sql, _ = self.ports
        values = {
            "folder": self.folder, "host": self.host, "ctld_port": ctld, "node_port": node, "last_port": node2,
            "dbd_port": dbd, "sql_port": self.sql, "parameters": "preempt_send_user_signal",
        }  # fmt: skip
        accounting = ACCOUNTING.format(**values) if self.accounting else ""
        self.conf.write_text(CONF.format(accounting=accounting, **values))
        (self.folder / "state").mkdir()
        self._start_munge()
        if self.accounting:
            path = self.folder / "slurmdbd.conf"
            path.write_text(DBD_CONF.format(**values))
            path.chmod(0o600)
            self._start_database()
        os.environ["SLURM_CONF"] = str(self.conf)
        self.start_controller()
        if self.accounting:
            self._add_account()
        for number in (1, 2):
            self.start_node(f"node{number}")
        self.wait_for_nodes()

    def start_controller(self) -> None:
        """Start slurmctld; it restores its saved state."""
        self._run("slurmctld", "-f", str(self.conf))

    def start_node(self, name: str) -> None:
        """Start the slurmd of node1 or node2."""
        (self.folder / f"spool-{name}").mkdir(exist_ok=True)
        self._run("slurmd", "-f", str(self.conf), "-N", name)

    def wait_for_nodes(self, seconds: float = 40) -> None:
        """Wait until both nodes can run jobs; RuntimeError with the controller's log when they do not."""
        until = time.monotonic() + seconds
        text = ""
        while time.monotonic() < until:
            answer = self.ask("sinfo", "-h", "-N", "-p", "low", "-o", "%N %t", check=False)
            text = answer
            states = [line.split()[1] for line in answer.splitlines()]
            if len(states) == 2 and all(state in ("idle", "mix", "alloc", "comp") for state in states):
                return
            time.sleep(0.3)
        log = (self.folder / "slurmctld.log").read_text()[-3000:]
        raise RuntimeError(f"Slurm's nodes did not come up in {seconds} s: {text}\n{log}")

    def kill_daemon(self, name: str, number: int = signal.SIGKILL) -> None:
        """End one daemon ("slurmd-node1", "slurmctld") by its pid file and wait until it is gone."""
        pid = _read_pid(self.folder / f"{name}.pid")
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        until = time.monotonic() + 20
        while _is_there(pid):
            if time.monotonic() > until:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        (self.folder / f"{name}.pid").unlink(missing_ok=True)

    def ask(self, *words: str, check: bool = True) -> str:
        """Return the output of a Slurm command; raise RuntimeError if it fails and `check` is set."""
        answer = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        if check and answer.returncode:
            raise RuntimeError(f"{' '.join(words)}: {answer.stderr}")
        return answer.stdout

    def stop(self) -> None:
        """Cancel all jobs and end all daemons."""
        with contextlib.suppress(Exception):
            self.ask("scancel", "--me", check=False)
            until = time.monotonic() + 10
            while self.ask("squeue", "-h", check=False).strip() and time.monotonic() < until:
                time.sleep(0.5)
        for name in ("slurmd-node1", "slurmd-node2"):
            self.kill_daemon(name, signal.SIGTERM)
        for name in ("slurmctld", "slurmdbd"):
            self.kill_daemon(name, signal.SIGTERM)
        self.kill_daemon("mariadbd", signal.SIGTERM)
        self.kill_daemon("munged", signal.SIGTERM)
        if self._database and self._data:
            self._database.wait()
            shutil.rmtree(self._data, ignore_errors=True)
        os.environ.pop("SLURM_CONF", None)

    def _add_account(self) -> None:
        """Give root an account: with enforced limits, users without one may not submit."""
        until = time.monotonic() + 20
        words = ["sacctmgr", "-i", "add", "account", "trials"]
        while "trials" not in self.ask("sacctmgr", "-n", "show", "account", check=False):
            self.ask(*words, check=False)
            if time.monotonic() > until:
                raise RuntimeError("slurmdbd did not add the account in 20 s")
            time.sleep(0.3)
        self.ask("sacctmgr", "-i", "add", "user", "root", "account=trials")

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        places = {"socket": "socket", "pid-file": "munged.pid", "log-file": "munged.log", "seed-file": "munge.seed"}
        options = [f"--{name}={self.folder}/{file}" for name, file in places.items() if name != "socket"]
        self._run("munged", "--force", f"--key-file={key}", f"--socket={self.folder}/munge.socket", *options)

    def _start_database(self) -> None:
        data = Path(tempfile.mkdtemp(prefix="slurm-sql-"))  # separate, since the mysql user must have access
        self._data = data
        shutil.chown(data, "mysql", "mysql")
        self._run("mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={data}", "--skip-test-db")
        socket_path = data / "sql.socket"
        words = ["mariadbd", "--no-defaults", "--user=mysql", f"--datadir={data}", "--bind-address=127.0.0.1"]
        words += [f"--port={self.sql}", f"--socket={socket_path}", f"--pid-file={data}/mariadbd.pid"]
        words += ["--innodb-buffer-pool-size=64M", "--innodb-log-file-size=48M"]
        path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        with (self.folder / "mariadbd.log").open("wb") as log:
            self._database = subprocess.Popen(
                words,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "PATH": path},
            )
        (self.folder / "mariadbd.pid").write_text(str(self._database.pid))
        sql = (
            "CREATE DATABASE slurm_acct; CREATE USER slurm@'127.0.0.1' IDENTIFIED BY 'slurm'; "
            "CREATE USER slurm@localhost IDENTIFIED BY 'slurm'; GRANT ALL ON slurm_acct.* TO slurm@'127.0.0.1'; "
            "GRANT ALL ON slurm_acct.* TO slurm@localhost;"
        )
        until = time.monotonic() + 30
        while subprocess.run(
            ["mariadb", "--no-defaults", f"--socket={socket_path}", "-e", sql], capture_output=True, check=False
        ).returncode:
            if time.monotonic() > until:
                raise RuntimeError((self.folder / "mariadbd.log").read_text()[-2000:])
            time.sleep(0.3)
        self._run("slurmdbd", SLURM_CONF=str(self.conf))
        _wait_for_port(self.ports[3])

    def _run(self, *words: str, **environment: str) -> None:
        path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        with (self.folder / "daemons.log").open("ab") as log:
            code = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": path, **environment},
                check=False,
            ).returncode
        if code:
            raise RuntimeError(
                f"{' '.join(words)}: exit code {code}\n{(self.folder / 'daemons.log').read_text()[-2000:]}"
            )


def _free_ports(count: int) -> list[int]:
    """Return consecutive free ports below the ephemeral range."""
    base = 10000 + secrets.randbelow(8000)
    while True:
        try:
            for port in range(base, base + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            base = 10000 + secrets.randbelow(8000)
            continue
        return list(range(base, base + count))


def _wait_for_port(port: int, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    raise RuntimeError(f"nothing listens on port {port} after {seconds} s")


def _read_pid(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _is_there(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError, OSError):
        os.waitpid(pid, os.WNOHANG)
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
