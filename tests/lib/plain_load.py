"""A kafka-python producer without idempotence, acks=all, one request at a time, in the manner of the Java `Hammer`.

Sends numbered records until its standard input ends, then prints `SENT partition count`, and for every record
`ACK partition number offset` or `ERROR partition number why`.
"""

import sys
import threading
import time

from kafka import KafkaProducer


def main():
    bootstrap, topic, partitions, pause_ms = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    ended = threading.Event()

    def wait_for_the_end():
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=False, retries=1_000_000, linger_ms=5,
                             max_in_flight_requests_per_connection=1, retry_backoff_ms=100, delivery_timeout_ms=300_000,
                             request_timeout_ms=10_000)
    sent, lines = [0] * partitions, []
    while not ended.is_set():
        for partition in range(partitions):
            number = sent[partition]
            sent[partition] += 1
            future = producer.send(topic, f"{number}:{'k' * (number % 200)}".encode(), str(number).encode(), partition=partition)
            future.add_callback(lambda found, p=partition, n=number: lines.append(f"ACK {p} {n} {found.offset}"))
            future.add_errback(lambda error, p=partition, n=number: lines.append(f"ERROR {p} {n} {error!r}"))
        time.sleep(pause_ms / 1000)
    producer.flush(120)
    for partition, count in enumerate(sent):
        lines.append(f"SENT {partition} {count}")
    print("\n".join(lines), flush=True)


main()
