"""Network namespaces that a test makes for itself: a hub, in which the test runs, and one for each broker, with a link that can be cut.

Everything lives as long as the test's processes and reaches nothing outside: no address of the machine is used, no port of it taken.
Where namespaces are not permitted, `enter_hub` says why and the suite runs on loopback, without the faults that need links.
"""

import os
import shutil
import subprocess
import sys

HUB_VARIABLE = "KAFSCALE_TEST_HUB"
HUB, ETCD, STORE, PROXY = "10.77.0.1", "10.77.0.2", "10.77.0.3", "10.77.0.4"


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {done.stderr.strip()}")


def enter_hub():
    """Runs the calling script again in a namespace of its own. None when that worked, or why it cannot."""
    if os.environ.get(HUB_VARIABLE):
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "hub", "type", "bridge")
        run("ip", "link", "set", "hub", "up")
        for address in (HUB, ETCD, STORE, PROXY):
            run("ip", "addr", "add", f"{address}/24", "dev", "hub")
        return None
    for tool in ("unshare", "nsenter", "ip", "iptables"):
        if not shutil.which(tool):
            return f"{tool} is missing"
    probe = "ip link set lo up && ip link add t0 type bridge && ip link add t1 type veth peer name t2 && iptables -A OUTPUT -j ACCEPT"
    done = subprocess.run(["unshare", "--net", "sh", "-c", probe], capture_output=True, text=True)
    if done.returncode != 0:
        return f"network namespaces are not permitted: {done.stderr.strip()}"
    os.environ[HUB_VARIABLE] = "1"
    os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])


class Link:
    """The namespace of one broker and its link to the hub."""

    def __init__(self, number):
        self.host, self.device = f"10.77.0.{10 + number}", f"broker{number}"
        # A process holds the namespace; it ends with us.
        self.holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.holder.stdin.write("ready\n")
        self.holder.stdin.flush()
        self.holder.stdout.readline()
        self.prefix = ("nsenter", "--target", str(self.holder.pid), "--net")
        run("ip", "link", "add", self.device, "type", "veth", "peer", "name", "eth0", "netns", str(self.holder.pid))
        run("ip", "link", "set", self.device, "master", "hub", "up")
        self.inside("ip", "link", "set", "lo", "up")
        self.inside("ip", "addr", "add", f"{self.host}/24", "dev", "eth0")
        self.inside("ip", "link", "set", "eth0", "up")

    def inside(self, *command):
        run(*self.prefix, *command)

    def cut(self, *peers):
        """Nothing goes to these addresses any more, or nothing at all without any."""
        if not peers:
            run("ip", "link", "set", self.device, "down")
        for peer in peers:
            self.inside("iptables", "-A", "OUTPUT", "-d", peer, "-j", "DROP")

    def heal(self):
        run("ip", "link", "set", self.device, "up")
        self.inside("iptables", "-F", "OUTPUT")

    def close(self):
        self.holder.kill()
        self.holder.wait()
