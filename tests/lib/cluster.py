"""A cluster of real processes: brokers over one etcd and one S3 server, each broker with a proxy of its own in front of the store.

Where the test runs in a namespace of its own (network.py) every broker has another one, and its links can be cut.
"""

import os
import time

import wire
from broker import Broker
from network import ETCD, HUB_VARIABLE, PROXY, STORE, Link
from rows import check, wait_for
from s3proxy import S3Proxy
from services import ACCESS_KEY, BUCKET, SECRET_KEY, Etcd, S3Server

LEASE_S = 3


class Cluster:
    def __init__(self, brokers=3, args=(), proxies=True):
        self.own_network = bool(os.environ.get(HUB_VARIABLE))
        self.etcd = Etcd(ETCD if self.own_network else "127.0.0.1")
        self.store = S3Server(STORE if self.own_network else "127.0.0.1")
        self.links, self.proxies, self.brokers = [], [], []
        self.args, self.count, self.with_proxies = list(args), brokers, proxies

    def start(self):
        self.etcd.start()
        self.store.start()
        for number in range(1, self.count + 1):
            self.add_broker(number)
        for broker in self.brokers:
            broker.spawn()
        self.wait_until_ready()
        return self

    def add_broker(self, node_id, position=None):
        """A broker that is not started yet. A position other than its node id makes a second one with the same id."""
        link = Link(position or node_id) if self.own_network else None
        where = self.store.address
        if self.with_proxies:
            proxy = S3Proxy(self.store.address, PROXY if self.own_network else "127.0.0.1")
            self.proxies.append(proxy)
            where = proxy.address
        broker = Broker(args=["--node-id", str(node_id), *self.backends(), *self.args], env=store_env(where), link=link)
        self.links.append(link)
        self.brokers.append(broker)
        return broker

    def backends(self):
        return ["--store", f"s3://{BUCKET}/test", "--meta", f"etcd://{self.etcd.address}"]

    @property
    def bootstrap(self):
        return ",".join(broker.bootstrap for broker in self.brokers[:self.count])

    def live(self):
        return [broker for broker in self.brokers if broker.alive()]

    def wait_until_ready(self, limit_s=60):
        for broker in self.live():
            wait_for(f"{broker.bootstrap}", broker.ready, limit_s)
        count = len(self.live())
        wait_for(f"{count} brokers to know each other", lambda: all(self.members(b) == count for b in self.live()), limit_s)

    def members(self, broker):
        try:
            return len(wire.brokers(broker.bootstrap))
        except (OSError, AssertionError):
            return 0

    def leaders(self, topic):
        """{partition: node id of its leader}, as the first live broker tells it."""
        return wire.leaders(self.live()[0].bootstrap, topic)

    def wait_for_leaders(self, topics, nodes=None, limit_s=60):
        """Until every partition of these topics has a leader, one of `nodes` if given."""
        def led():
            found = [leader for topic in topics for leader in self.leaders(topic).values()]
            return found and all(leader in nodes if nodes else leader >= 0 for leader in found)
        began = time.monotonic()
        wait_for(f"leaders for {topics}", led, limit_s)
        return time.monotonic() - began

    def panics(self):
        return [line for broker in self.brokers for line in broker.panics()]

    def checks_no_panic(self):
        check(not self.panics(), self.panics()[:3])

    def requests(self):
        """What all brokers asked of the store, by `METHOD area`."""
        total = {}
        for proxy in self.proxies:
            for name, count in proxy.counts().items():
                total[name] = total.get(name, 0) + count
        return total

    def close(self):
        for broker in self.brokers:
            if broker.alive():
                broker.kill9()
            broker.close()
        for proxy in self.proxies:
            proxy.close()
        for link in self.links:
            if link:
                link.close()
        self.store.close()
        self.etcd.close()

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            for broker in self.brokers:
                print(f"INFO log-of-{broker.bootstrap} {broker.log_tail(2000)}", flush=True)
            self.close()
            raise

    def __exit__(self, *_):
        self.close()


def store_env(address):
    return {"KAFSCALE_S3_ENDPOINT": f"http://{address}", "KAFSCALE_S3_ACCESS_KEY_ID": ACCESS_KEY,
            "KAFSCALE_S3_SECRET_ACCESS_KEY": SECRET_KEY}
