"""A persistent worker for zo.Program: reads one JSON line an evaluation, writes one JSON line. Replace `evaluate`."""

import json
import os
import sys


def evaluate(parameters: list[float], seed: int, scratch: str) -> object:
    """The program: a number, lists of numbers, or a dict of these, or a NumPy array."""
    return sum((value - 0.5) ** 2 for value in parameters)


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the program prints goes to stderr and cannot break the protocol
    for line in sys.stdin:
        asked = json.loads(line)
        answer, arrays = {"id": asked["id"]}, b""
        try:
            result = evaluate(asked["parameters"], asked["seed"], asked["scratch"])
            if hasattr(result, "dtype"):  # a NumPy array travels as raw bytes after the line
                result = result.astype(result.dtype.newbyteorder("<"))
                answer["arrays"] = [{"dtype": result.dtype.str, "shape": list(result.shape)}]
                arrays = result.tobytes()
            else:
                answer["result"] = result
        except Exception as error:
            answer["error"] = f"{type(error).__name__}: {error}"
        answers.write(json.dumps(answer).encode() + b"\n" + arrays)
        answers.flush()


if __name__ == "__main__":
    main()
