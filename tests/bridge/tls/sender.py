"""Sends callbacks over TLS until its standard input ends, with a connection of its own for every few of them, and tells what came of it.

Usage: sender.py PORT AUTHORITY; the last line is a JSON object: how many were sent, how many were answered as durable, and each failure.
"""

import http.client
import json
import ssl
import sys
import threading

PORT, AUTHORITY = int(sys.argv[1]), sys.argv[2]
CONNECTIONS, CALLBACKS_EACH, TIMEOUT_SECONDS = 4, 5, 10
QUERY = "/?SdkAppid=1400000000&CallbackCommand=Group.CallbackAfterGroupFull"

over = threading.Event()
lock = threading.Lock()
tally = {"sent": 0, "durable": 0, "failures": []}


def send(thread):
    context = ssl.create_default_context(cafile=AUTHORITY)
    number = 0
    while not over.is_set():
        connection = http.client.HTTPSConnection("localhost", PORT, timeout=TIMEOUT_SECONDS, context=context)
        try:
            for _ in range(CALLBACKS_EACH):
                number += 1
                body = {"CallbackCommand": "Group.CallbackAfterGroupFull", "GroupId": f"{thread}", "EventTime": number}
                with lock:
                    tally["sent"] += 1
                connection.request("POST", QUERY, json.dumps(body))
                answer = connection.getresponse()
                if answer.status != 200 or json.load(answer)["ActionStatus"] != "OK":
                    raise ValueError(f"answered with {answer.status}")
                with lock:
                    tally["durable"] += 1
        except (OSError, ValueError, http.client.HTTPException) as error:
            with lock:
                tally["failures"].append(repr(error))
        finally:
            connection.close()


threads = [threading.Thread(target=send, args=(thread,)) for thread in range(CONNECTIONS)]
for thread in threads:
    thread.start()
sys.stdin.read()
over.set()
for thread in threads:
    thread.join()
print(json.dumps(tally))
