"""How long mail for a domain took, from kumod's log records on stdin: delays.py DOMAIN SINCE, the latter in microseconds since
1970. Prints how many received since then were delivered, the median and the 99th percentile in ms from acceptance (Reception)
to Delivery, and the 99th percentile in ms from creation to acceptance, which has the spool's sync in it."""
import json
import sys
from datetime import datetime

domain, since = sys.argv[1], int(sys.argv[2]) / 1e6
received, delivered = {}, {}


def when(record, key):
    return datetime.fromisoformat(record[key].replace("Z", "+00:00")).timestamp()


for line in sys.stdin:
    record = json.loads(line)
    if record["queue"] == domain and record["type"] in ("Reception", "Delivery"):
        moment = when(record, "event_time")
        if record["type"] == "Delivery":
            delivered[record["id"]] = moment
        elif moment >= since:
            received[record["id"]] = (moment, moment - when(record, "created_time"))

lost = len(received.keys() - delivered.keys())
if lost or not received:
    sys.exit(f"{lost} of {len(received)} messages have no Delivery record")


def percentile(values, share):
    return 1000 * sorted(values)[int(share * (len(values) - 1))]


delays = [delivered[id] - moment for id, (moment, _) in received.items()]
accepting = [taken for _, taken in received.values()]
print(len(delays), *(f"{percentile(*of):.2f}" for of in ((delays, 0.5), (delays, 0.99), (accepting, 0.99))))
