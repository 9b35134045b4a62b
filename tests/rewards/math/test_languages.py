# ruff: noqa: RUF001
"""Final answers without a box, and answers in Chinese and Spanish."""

import asyncio

from conjoint.envs.types import Task
from conjoint.rewards.math.reward import MathVerifier

ENGLISH_PAID = r"""
12000  ~  The answer is 12 thousand.
12  ~  There are 12 apples.
42  ~  41 + 1 = 42
\frac34  ~  The final answer is $\frac34$.
\frac34  ~  Final answer: $\dfrac{3}{4}$
\frac34  ~  The final answer is \[\frac34\]
\frac34  ~  Thus the answer is $\frac34$, as required.
\frac34  ~  The final answer is¶¶$$\frac{3}{4}$$
\sqrt{2}  ~  The answer is $\sqrt{2}$. I hope it is correct.
\sqrt{2}  ~  Final Answer: The final answer is $\sqrt{2}$. I hope it is correct.
42  ~  The answer is: **42**
42  ~  The answer is \(42\).
42  ~  The answer is 42
42  ~  ## Answer¶42
42  ~  Answer = 42
42  ~  I got 42.
-42  ~  The answer is -42.
1234  ~  The answer is 1,234.
71/6  ~  The answer is 11 5/6.
(1,2)  ~  The answer is $(1,2)$.
Monday  ~  The answer is Monday.
B  ~  The answer is B.
B  ~  Answer: B
x=5  ~  So $x=5$.
5  ~  So $x = 5$.
12  ~  $3 \times 4 = 12$
5 \text{ cm}  ~  The answer is $5$ cm.
18  ~  She makes 9 * 2 = $<<9*2=18>>18 every day at the farmer's market.¶#### 18
18  ~  She makes 9 * 2 = $18 every day at the market.
540  ~  He runs 60*9=540 meters a week
540  ~  So he runs 3*3=9 times, 9*60=540 meters
8  ~  So $5 + $3 = $8.
20  ~  So it takes 20 minutes.
"""
ENGLISH_REFUSED = r"""
1234  ~  \boxed{1.234}
1.234  ~  \boxed{1,234}
12  ~  The answer is 12 thousand.
12  ~  There are 12 thousands.
12  ~  There are 12 dozen eggs.
42  ~  So 41 = 42.
42  ~  40 + 3 = 42
42  ~  The answer is $41 = 42$.
\frac34  ~  The final answer is $\frac34$ or $\frac12$.
\frac34  ~  The final answer is not $\frac34$.
2  ~  The answer is $\sqrt{2}$.
2  ~  The answer is x^2.
2  ~  The answer is √2.
2  ~  The answer is sqrt(2).
2  ~  The answer is 2:1
42  ~  The answer is at least 42.
42  ~  The answer is 42.5
42  ~  The answer is -42
115/6  ~  The answer is 11 5/6.
5/6  ~  The answer is 11 5/6.
B  ~  The answer is A or B
10  ~  So $2x = 10$.
10  ~  So 2x = 10.
5 \text{ cm}  ~  The answer is $5$ m.
5 \text{ cm}  ~  The answer is 5 m.
5  ~  50% of 10 is 5
"""

CHINESE_PAID = r"""
42  ~  答案是42。
42  ~  答案：42
42  ~  所以答案为四十二。
42  ~  一共有42个苹果。
42  ~  答：小明有42个苹果。
420000  ~  答案是42万。
0.5  ~  答案是百分之五十。
1/2  ~  答案是二分之一。
C  ~  故选C。
C  ~  答案：(C)
3,5  ~  答案是3和5。
3,5  ~  \boxed{3、5}
3,5  ~  \boxed{5和3}
42  ~  \boxed{４２}
x=5  ~  \boxed{ｘ＝５}
5 厘米  ~  \boxed{5cm}
5 厘米  ~  \boxed{5 \text{ cm}}
5 \text{ cm}  ~  \boxed{5厘米}
12元  ~  \boxed{12 元}
无解  ~  \boxed{无解}
(1,2]  ~  \boxed{（1，2］}
42  ~  因此，答案是 $42$。
\frac34  ~  最终答案是 $\frac{3}{4}$。
42  ~  \boxed{四十二}
42  ~  \boxed{四十二个}
0.5  ~  \boxed{百分之五十}
120000  ~  \boxed{12万}
3,5  ~  \boxed{3和5}
"""
CHINESE_REFUSED = r"""
42  ~  答案不是42。
42  ~  答案是42万。
C  ~  答案：B
3,5  ~  \boxed{3和6}
42  ~  \boxed{４３}
5 厘米  ~  \boxed{5米}
12元  ~  \boxed{12美元}
无解  ~  \boxed{有解}
42  ~  答案是41或42。
12  ~  \boxed{12万}
x>2  ~  \boxed{x>2 且 x<5}
"""

SPANISH_PAID = r"""
42  ~  La respuesta es 42.
42  ~  La respuesta final es $42$.
42  ~  Respuesta: 42
42  ~  **Respuesta final:** 42
3.5  ~  La respuesta es 3,5.
3.5  ~  La respuesta es 3,5 metros.
3.5  ~  \boxed{3,5}
3.5  ~  \boxed{3,5 \text{ m}}
1234.5  ~  \boxed{1.234,5}
1234567  ~  \boxed{1.234.567}
42  ~  En total hay 42 manzanas.
42  ~  \boxed{42 \text{ manzanas}}
42  ~  \boxed{42 \text{ años}}
12000  ~  \boxed{12 mil}
50\%  ~  \boxed{50 por ciento}
3,5  ~  \boxed{3 y 5}
3,5  ~  \boxed{3 \text{ y } 5}
3,5  ~  \boxed{5 y 3}
5 \text{ cm}  ~  \boxed{5 centímetros}
no existe  ~  \boxed{\text{No existe}}
infinito  ~  \boxed{\infty}
\sin x  ~  \boxed{\operatorname{sen} x}
\sin x  ~  \boxed{\sen x}
y=2x+1  ~  \boxed{y = 1+2x}
y=2x+1  ~  \boxed{2x - y + 1 = 0}
3.5  ~  \boxed{3,5}
0.125  ~  \boxed{0,125}
3,5  ~  \boxed{3 y 5}
3,5  ~  \boxed{3 \text{ y } 5}
3\frac12  ~  \boxed{3.5}
y - 3 = 2(x-1)  ~  \boxed{y = 2x+1}
"""
SPANISH_REFUSED = r"""
42  ~  La respuesta no es 42.
42  ~  No es 42.
35  ~  \boxed{3,5}
12  ~  \boxed{12 mil}
12  ~  \boxed{12 millones}
12  ~  \boxed{12 docenas}
12  ~  \boxed{12 tercios}
12  ~  \boxed{12 décimos}
12  ~  \boxed{12 centésimas}
5 \text{ cm}  ~  \boxed{5 metros}
3,5  ~  \boxed{3.5}
"""


def scored(table: str, form: str) -> dict[str, float | None]:
    """Each line `reference ~ answer` of a table with its score; the answer stands in `form`."""
    verifier = MathVerifier()

    async def grade(line: str) -> float | None:
        gold, answer = line.split("  ~  ")
        response = form.format(answer.replace("¶", "\n"))
        return (await verifier(Task.make("math", "What is it?", gold), response)).value

    try:
        return {line: asyncio.run(grade(line)) for line in table.strip().splitlines()}
    finally:
        verifier.close()


def test_a_right_answer_is_found_and_paid() -> None:
    for table in (ENGLISH_PAID, CHINESE_PAID, SPANISH_PAID):
        assert {line for line, value in scored(table, "{}").items() if value != 1.0} == set()


def test_a_wrong_or_denied_answer_is_not_paid() -> None:
    for table in (ENGLISH_REFUSED, CHINESE_REFUSED, SPANISH_REFUSED):
        assert {line for line, value in scored(table, "{}").items() if value != 0.0} == set()
