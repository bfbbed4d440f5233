"""The bare ASGI route that `make bench` holds /decide against: the same arithmetic, nothing around it."""

import json
import sys

import uvicorn

from predictor.decision import decide
from predictor.prior import Prior
from serving.bundle import Bundle


def make_app(bundle: str):
    card = Bundle.open(bundle).card

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        status, answer = 200, {}
        if body:
            asked = json.loads(body)["request"]
            prior = Prior.model_validate(asked["prior"])
            found = decide(card.policy, asked["scores"], prior)
            chance = card.correctness.predict(found.best, found.drawn, prior.moments()[0])
            answer = found.model_dump() | {"prior": asked["prior"], "chance_correct": float(chance)}
        content = json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return app


if __name__ == "__main__":
    uvicorn.run(make_app(sys.argv[1]), port=int(sys.argv[2]), log_level="critical", lifespan="off")
