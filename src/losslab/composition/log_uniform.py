"""Values of a key that are drawn log-uniformly, as in optimizer.lr=log_uniform(1e-5,1e-3,6): random search in a sweep.

The range of logarithms is cut into COUNT equal parts, and one value is drawn in each (a Latin hypercube of one
dimension: McKay, Beckman & Conover, Technometrics 21, 1979). The text of the argument seeds the draw: the same command
has the same cells, and all objectives have the same values.
"""

import math
import random
import re

CALL = re.compile(r"([\w.]+)=log_uniform\((.*)\)")


def drawn(argument: str) -> str:
    """The argument with its values in place of `log_uniform(LOW,HIGH,COUNT)`; any other argument as it is.

    Values have three digits. Raises ValueError if LOW, HIGH and COUNT are not an interval and a number of values.
    """
    if (match := CALL.fullmatch(argument)) is None:
        return argument
    try:
        low, high, count = (float(part) for part in match[2].split(","))
        valid = 0 < low < high < math.inf and count >= 1 and count == int(count)
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"{argument}: write log_uniform(LOW,HIGH,COUNT), as in log_uniform(1e-5,1e-3,6)")
    rng = random.Random(argument)
    places = [(i + rng.random()) / count for i in range(int(count))]
    values = dict.fromkeys(f"{low * (high / low) ** place:.3g}" for place in places)
    return f"{match[1]}={','.join(values)}"
