"""What each form of answer may look like, and what only looks like it."""

import asyncio

from conjoint.envs.types import Task
from conjoint.rewards.math.reward import MathVerifier

EQUAL = r"""
(2,3)  ~  (x,y)=(2,3)
x=2,y=3  ~  (x,y)=(2,3)
x=2,y=3  ~  (2,3)
x=2,y=3  ~  2,3
2,3  ~  x=2,x=3
2,3  ~  x=3 \text{ or } x=2
x=-2, x=3  ~  x \in \{3,-2\}
x = \pm 3  ~  x=3, x=-3
x = \pm 3  ~  3,-3
\{-3,3\}  ~  \pm 3
y=2x+1  ~  2x+1
5  ~  x = 5
x^2+y^2=1  ~  y^2+x^2=1
x<5  ~  5>x
x<5  ~  (-\infty,5)
x \leqslant 5  ~  x <= 5
x \ne 3  ~  x \neq 3
x \ne 3  ~  (-\infty,3)\cup(3,\infty)
(-\infty,-1)\cup(1,\infty)  ~  x<-1 \text{ or } x>1
x<-1 \text{ or } x>1  ~  x>1 or x<-1
\{x \mid x>2\}  ~  x>2
x>2  ~  (2,\infty)
(1,3)  ~  1<x<3
1<x\le 3  ~  (1,3]
[0,1]  ~  0 \le x \le 1
E=mc^2  ~  mc^2
5!  ~  120
42  ~  6 \cdot 7 = 42
42  ~  x = 6*7 = 42
2:3  ~  2 : 3
\log_2 8x  ~  \log_2(8x)
\sqrt[3]{2}  ~  2^{1/3}
a_1+1  ~  1+a_{1}
x \equiv 3 \pmod{7}  ~  x\equiv 3 (mod 7)
n^2  ~  n^{2}
1\frac{1}{2}  ~  3/2
3/2  ~  1 1/2
none  ~  \text{None}
\text{undefined}  ~  undefined.
\infty  ~  infinity
infinity  ~  \infty
\mathbb{R}  ~  (-\infty,\infty)
\begin{pmatrix}1\\2\end{pmatrix}  ~  2\begin{pmatrix}1/2\\1\end{pmatrix}
Tom and Ann  ~  Ann, Tom
Tom, Ann  ~  Ann and Tom
\frac{1}{2}x  ~  \frac{x}{2}
3,5  ~  {3,5}
\{1,2\}  ~  \{2,1\}
\sin^2 x  ~  1-\cos^2 x
5 \text{ cm}  ~  5 centimeters
5 \text{ cm}^2  ~  5 square cm
\$5  ~  5 dollars
30^\circ  ~  30
30^\circ  ~  30 degrees
1.5 \times 10^{-8}  ~  1.5e-8
\frac{1}{2^{100}}  ~  2^{-100}
3\sqrt{2}+1  ~  1+3\sqrt2
B  ~  B: 42
Yes  ~  yes
No  ~  no
A, C  ~  C, A
x^2-1  ~  (x-1)(x+1)
2+3i  ~  3i+2
1,2,3  ~  3,2,1
2^{10}  ~  2\cdot 2^9
3.14  ~  \approx 3.14
m\angle A = 30^\circ  ~  30^\circ
P(A) = \frac12  ~  0.5
\text{Area} = 5  ~  5
Area = 5  ~  5
F = ma  ~  ma
B = \{1,2\}  ~  \{2,1\}
A = 5, B = 3  ~  B=3 \text{ and } A=5
\text{A, B and C}  ~  A, B, C
\text{A and C}  ~  C and A
I = \frac{1}{2}  ~  0.5
C_1 e^x + C_2  ~  C_2 + C_1 e^x
H_2O  ~  H_2O
\mathrm{H_2O}  ~  H_2 O
E  ~  E
E  ~  (E) none of the above
A  ~  A.
A  ~  \textbf{(A) } 5
A  ~  \textbf{A)} 5
\mathrm{(A)}  ~  A
0.0000001  ~  10^{-7}
10^{100}  ~  1e100
6.02 \times 10^{23}  ~  6.02e23
6.02 \times 10^{23}  ~  602 \times 10^{21}
2A_{16}  ~  2A_{16}
x=1,2  ~  1,2
x=1,y=2,z=3  ~  1,2,3
m=3,n=4  ~  (m,n)=(3,4)
(x,y)=(1,2)  ~  (1,2)
(x,y)=(1,2)  ~  x=1, y=2
(x,y)=(1,2),(2,1)  ~  (1,2),(2,1)
(1,2),(3,4)  ~  (3,4), (1,2)
(1,2),(3,4)  ~  (3,4) \text{ and } (1,2)
(1,2),(3,4)  ~  \{(1,2),(3,4)\}
1, 2 \text{ or } 3  ~  1,2,3
\text{3 and 5}  ~  3,5
\text{red, green and blue}  ~  blue, red, green
\pm\frac{1}{2}  ~  -\frac12, \frac12
x=\frac{-1\pm\sqrt{5}}{2}  ~  \frac{-1+\sqrt5}{2}, \frac{-1-\sqrt5}{2}
\pm 1, \pm 2  ~  1,-1,2,-2
\pm i  ~  i, -i
x \in (0,1) \cup (2,3)  ~  (2,3)\cup(0,1)
x \in (0,1) \cup (2,3)  ~  0<x<1 \text{ or } 2<x<3
x \ge 0  ~  [0,\infty)
x \ge 0  ~  [0,+\infty)
x \ge 0  ~  x \in [0,\infty)
x > 0  ~  \{x \in \mathbb{R} \mid x>0\}
\{x \mid 1<x<3\}  ~  (1,3)
\emptyset  ~  \{\}
\emptyset  ~  \text{empty set}
\begin{bmatrix}1\\2\end{bmatrix}  ~  \begin{pmatrix} 1 \\ 2 \\ \end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}  ~  \begin{bmatrix}1&2\\[0.3em]3&4\end{bmatrix}
\left(\begin{array}{r} 1 \\ 2 \end{array}\right)  ~  \begin{pmatrix}1\\2\end{pmatrix}
\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}  ~  -\begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}
42  ~  \underline{42}
42  ~  \text{42}
42  ~  \textbf{42}
42  ~  \bf 42
42  ~  \fbox{42}
42  ~  42_{10}
42000000  ~  42 \text{ million}
\frac{1}{2}  ~  1/2
\frac{1}{2}  ~  \frac{2}{4}
\frac{1}{2}  ~  \frac{1}{2} = 0.5
\frac{1}{2}  ~  0.5 = \frac{1}{2}
7/2  ~  3\frac12
7/2  ~  3 1/2
-7/2  ~  -3\frac{1}{2}
-7/2  ~  -3 1/2
\text{undefined}  ~  \text{Undefined}
\text{none}  ~  none
\text{None}  ~  none
DNE  ~  \text{does not exist}
-\infty  ~  -infinity
no solution  ~  \text{No solution}
a \neq b  ~  a \ne b
a \not= b  ~  a \neq b
x \le 2  ~  x ≤ 2
x \le 2  ~  x =< 2
x \le 2  ~  x \leqq 2
x \lt 2  ~  x < 2
A \cup B  ~  A \cup B
x \to 0  ~  x \rightarrow 0
\sin^{-1} x  ~  \arcsin x
\binom{n}{2}  ~  \frac{n(n-1)}{2}
1,000  ~  1000
e^{i\pi}  ~  -1
(2^3)^2  ~  64
\frac{x+1}{2}  ~  (x+1)/2
10^{-2}  ~  0.01
f(x) = 2x  ~  2x
x^2 + y^2 = 25  ~  x^2+y^2=5^2
n \text{ is even}  ~  n \text{ is even}
20\%  ~  0.2
\$20  ~  20
20  ~  \$20
4 \text{ hours}  ~  4 hours
4 \text{ m/s}  ~  4 \frac{\text{m}}{\text{s}}
"""

DIFFERENT = r"""
(2,3)  ~  (y,x)=(2,3)
x=2,y=3  ~  (3,2)
2,3  ~  x=3,y=2
y=2x+1  ~  y=2x-1
x=5  ~  2x=10
5  ~  2x=10
5  ~  x - 5 = 0
x^2+y^2=1  ~  x^2+y^2=2
x<5  ~  x \le 5
x<5  ~  y<5
(-\infty,-1)\cup(1,\infty)  ~  x<-1 \text{ and } x>1
x>2  ~  [2,\infty)
1<x\le 3  ~  [1,3)
5!  ~  5
x!  ~  x
\frac{1}{3}  ~  \frac{1}{3} \approx 0.5
42  ~  40+2 = 43
\overline{AB}  ~  AB
|x|  ~  x
\vec{a}  ~  a
f'(x)  ~  f(x)
2:3  ~  3:2
2:3  ~  2/3
\log_2 3  ~  \log_3 2
\sqrt[3]{2}  ~  \sqrt{2}
a_1  ~  a_2
x \equiv 3 \pmod{7}  ~  x \equiv 3 \pmod{5}
11/2  ~  1 1/2
42  ~  4 2
none  ~  no
infinity  ~  -\infty
\mathbb{R}  ~  \mathbb{Z}
\begin{vmatrix}1&2\\3&4\end{vmatrix}  ~  \begin{pmatrix}1&2\\3&4\end{pmatrix}
\begin{pmatrix}1&2\\3&4\end{pmatrix}  ~  \begin{pmatrix}1&3\\2&4\end{pmatrix}
\langle 1,2\rangle  ~  (1,2)
1234  ~  1.234
1.234  ~  1,234
(1,2)  ~  \{1,2\}
\frac{dy}{dx}  ~  \frac{y}{x}
AB  ~  BA
A^{-1}B  ~  BA^{-1}
5 \text{ cm}  ~  5 \text{ m}
5 \text{ cm}^2  ~  5 \text{ cm}^3
\$5  ~  €5
30^\circ  ~  \frac{\pi}{6}
10^{-10}  ~  10^{-11}
10^{-10}  ~  0
0  ~  10^{-30}
2^{2017}  ~  2^{2017}+1
B  ~  B is wrong
B  ~  (B) or (C)
A, C  ~  A, B
0.\overline{3}  ~  0.3
i  ~  -i
\text{Monday}  ~  Tuesday
-1  ~  i^2
1234  ~  (1,234)
1024  ~  2^{10}
12  ~  12 pairs
100  ~  100 percent
\frac{\pi}{2}  ~  90^\circ
xy = 5  ~  5
F = ma  ~  F = m/a
B = \{1,2\}  ~  B
A = 5, B = 3  ~  A
A = 5, B = 3  ~  A=3, B=5
\text{A and C}  ~  A
C_1 e^x + C_2  ~  C
C_1 e^x + C_2  ~  C_1 e^{-x} + C_2
H_2O  ~  HO
A  ~  \text{A bird}
A  ~  a
1e-7  ~  1e-8
0.0000001  ~  0
123456789012345678901234567890  ~  123456789012345678901234567891
10^{100}  ~  10^{100}+1
6.02 \times 10^{23}  ~  6.03 \times 10^{23}
1.0000000001  ~  1
2A_{16}  ~  2B_{16}
2A_{16}  ~  42
a_{10}  ~  a_1
10_2  ~  2
x=1,y=2,z=3  ~  1,3,2
m=3,n=4  ~  (4,3)
(x,y)=(1,2)  ~  x=2, y=1
(1,2),(3,4)  ~  (2,1),(3,4)
3 \text{ and } 5  ~  3 + 5
3 \text{ and } 5  ~  8
3 and 5  ~  3 \quad 5
\pm\frac{1}{2}  ~  \frac12
\frac{-1\pm\sqrt{5}}{2}  ~  \frac{1\pm\sqrt5}{2}
\frac{-1\pm\sqrt{5}}{2}  ~  \frac{-1+\sqrt5}{2}
\pm 1, \pm 2  ~  1,2
5  ~  \pm 5
x<3  ~  x > 3
x \ge 0  ~  [0,\infty]
\{1\}  ~  1
[1,3]  ~  \{1,3\}
(1,3)  ~  1,3
\emptyset  ~  \{0\}
\emptyset  ~  0
\varnothing  ~  \{\emptyset\}
\begin{pmatrix}1\\2\end{pmatrix}  ~  \begin{pmatrix}1&2\end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}  ~  \begin{vmatrix}1&2\\3&4\end{vmatrix}
42  ~  \overline{42}
42  ~  \cancel{42}
42  ~  \sqrt{42}
42  ~  \lfloor 42 \rfloor
42  ~  |42|
42  ~  42_5
42  ~  42^{*}
42  ~  42'
42  ~  42!
42  ~  42 \mod 5
42  ~  42 \pmod{50}
42  ~  \ge 42
42  ~  \sim 42
42  ~  \neq 42
42  ~  42+
42  ~  42 + C
42  ~  42i
42  ~  42\pi
42  ~  42 dollars and 50 cents
42  ~  42 dozen
42  ~  42 hundred
42  ~  42 hundredths
42  ~  42 squared
42  ~  42 factorial
42  ~  42 percent
42  ~  42 k
42  ~  42k
42  ~  42 \text{ k}
42  ~  42 \text{ million}
42  ~  42 or so
42  ~  42 = 43
42  ~  43 = 42
42  ~  x = 41 = 42
42  ~  41 + 1 = 42 = 43
42  ~  40 + 2
\frac{1}{2}  ~  1 : 2
\frac{1}{2}  ~  \frac{1}{2} \approx 0.6
31/2  ~  3 1/2
3/2  ~  3\frac12
undefined  ~  0
undefined  ~  defined
none  ~  None of these
-\infty  ~  \infty
a \neq b  ~  a = b
l \parallel m  ~  l \perp m
A \subset B  ~  A \subseteq B
A \cup B  ~  A \cap B
A \cap B  ~  A \cap B^c
A^c  ~  A
\sin^{-1} x  ~  \frac{1}{\sin x}
\sin x^2  ~  \sin^2 x
\binom{n}{2}  ~  \frac{n}{2}
\hat{x}  ~  x
\bar{x}  ~  x
\dot{x}  ~  x
\ddot{x}  ~  \dot{x}
x'  ~  x
x^*  ~  x
A^T  ~  A
\det A  ~  A
\mathbb{N}  ~  \mathbb{Z}
\mathbb{R}\setminus\{0\}  ~  \mathbb{R}
\mathbb{R}\setminus\{0\}  ~  \mathbb{R} \setminus \{1\}
\angle ABC  ~  \angle ACB
\triangle ABC  ~  \triangle DEF
5^\circ C  ~  5^\circ F
5^\circ \text{C}  ~  5^\circ \text{F}
3:45 \text{ p.m.}  ~  3:45 a.m.
3:45  ~  3:54
12:30  ~  12.5
2023-01-02  ~  2020
1,000  ~  1.000
1,000  ~  1
2^{3^2}  ~  64
\frac{a}{b}  ~  \frac{b}{a}
\frac{x+1}{2}  ~  x+\frac12
x+1/2  ~  (x+1)/2
2x^2  ~  (2x)^2
-2^2  ~  (-2)^2
x^{-1}  ~  -x
10^{-2}  ~  -10^2
3x-2  ~  2-3x
f(x) = 2x  ~  g(x) = 2x
f(2)  ~  2f
y = 3  ~  x = 3
n \text{ is even}  ~  n is odd
20\%  ~  20
\$20  ~  20 cents
4 \text{ hours}  ~  4 \text{ minutes}
4 \text{ m/s}  ~  4 \text{ m/s}^2
4 \text{ m/s}  ~  4 \text{ s/m}
"""


def scored(table: str, form: str) -> dict[str, float | None]:
    """Each line `reference ~ answer` of a table with its score; the answer stands in `form`."""
    verifier = MathVerifier()

    async def grade(line: str) -> float | None:
        gold, answer = line.split("  ~  ")
        task = Task.make("math", "What is it?", gold)
        return (await verifier(task, form.format(answer))).value

    try:
        return {line: asyncio.run(grade(line)) for line in table.strip().splitlines()}
    finally:
        verifier.close()


BOXED = "So it is $\\boxed{{{}}}$."


def test_another_writing_of_the_same_answer_is_paid() -> None:
    assert {line for line, value in scored(EQUAL, BOXED).items() if value != 1.0} == set()


def test_an_answer_that_says_something_else_is_not_paid() -> None:
    assert {line for line, value in scored(DIFFERENT, BOXED).items() if value != 0.0} == set()
