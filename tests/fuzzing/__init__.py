"""A seeded mutational fuzzer over every reader, and the judge of what may come out: `python -m tests.fuzzing`.

One mutant is decided by (seed, number) alone: `bases` gives a file in parts, `mutations` change its parts by kind,
`judge` reads it as users do and compares with torch and safetensors. What is found is kept as text by `finds`.
"""
